#include <doctest/doctest.h>

#include <bit>
#include <fstream>
#include <nlohmann/json.hpp>

#include "noise.hpp"

TEST_CASE("the noise of a seed is numpy's, bit for bit") {
  std::ifstream file(VTA_RT_FIXTURES);
  const auto fixtures = nlohmann::json::parse(file);
  REQUIRE(fixtures["noise"].size() == 4);
  for (const auto& entry : fixtures["noise"]) {
    const auto seed = entry["seed"].get<uint64_t>();
    CAPTURE(seed);
    const auto values = vta::NoiseGenerator(seed).normals(1'000'000);
    uint64_t sum = 0;
    for (const float value : values) sum += std::bit_cast<uint32_t>(value);
    const auto first = entry["first"].get<std::vector<uint32_t>>();
    for (size_t index = 0; index < first.size(); ++index) CHECK(std::bit_cast<uint32_t>(values[index]) == first[index]);
    CHECK(sum == entry["sum"].get<uint64_t>());
  }
}
