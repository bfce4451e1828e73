#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "error.hpp"
#include "schedule.hpp"

using nlohmann::json;

namespace {

json fixtures() {
  std::ifstream file(VTA_RT_FIXTURES);
  return json::parse(file);
}

vta::NoiseSchedule read_schedule(const json& values) {
  vta::NoiseSchedule schedule;
  schedule.prediction_type = values.value("prediction_type", schedule.prediction_type);
  schedule.beta_schedule = values.value("beta_schedule", schedule.beta_schedule);
  schedule.timestep_spacing = values.value("timestep_spacing", schedule.timestep_spacing);
  schedule.steps_offset = values.value("steps_offset", schedule.steps_offset);
  return schedule;
}

void check_close(double found, double expected) { CHECK(std::abs(found - expected) <= 1e-12 * (1 + std::abs(expected))); }

}  // namespace

TEST_CASE("every solver's table is Python's") {
  size_t count = 0;
  const json all = fixtures();
  for (const json& entry : all["tables"]) {
    CAPTURE(entry["solver"].get<std::string>());
    CAPTURE(entry["spacing"].dump());
    CAPTURE(entry["steps"].get<int>());
    std::optional<std::string> spacing;
    if (!entry["spacing"].is_null()) spacing = entry["spacing"].get<std::string>();
    const auto table = vta::solver_table(entry["solver"], read_schedule(entry["schedule"]), entry["steps"], spacing);
    REQUIRE(table.size() == entry["table"].size());
    for (size_t row = 0; row < table.size(); ++row) {
      const vta::TableRow& own = table[row];
      const auto expected = entry["table"][row].get<std::vector<double>>();
      const double values[] = {own.timestep, own.p, own.q, own.a, own.b, own.c, own.s};
      for (size_t column = 0; column < 7; ++column) check_close(values[column], expected[column]);
    }
    ++count;
  }
  CHECK(count == 180);
}

TEST_CASE("guidance in an interval of noise levels is Python's") {
  vta::Sampling sampling;
  sampling.steps = 7;
  sampling.guidance = 2.5;
  sampling.guidance_interval = {0.3, 4.0};
  CHECK(sampling.plan(vta::NoiseSchedule{}).guidance_scales == fixtures()["scales"].get<std::vector<double>>());
}

TEST_CASE("what no solver can do is said as Python says it") {
  const vta::NoiseSchedule schedule;
  const auto message = [&](const vta::Sampling& sampling) -> std::string {
    try {
      sampling.plan(schedule);
    } catch (const vta::OptionError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(message({.steps = 0}) == "steps is 0, an integer from 1 to 1000 is needed");
  CHECK(message({.steps = 1000}) ==
        "steps 1000: too many for leading spacing of 1000 timesteps with steps_offset 1, use fewer steps or another spacing");
  CHECK(message({.solver = "euler"}) == "solver is 'euler', one of ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, unipc, lcm is needed");
  CHECK(message({.guidance = -1}) == "guidance is -1.0, a number from 0 to 3.4e+38 is needed");
  CHECK(message({.guidance = std::nan("")}) == "guidance is nan, a number from 0 to 3.4e+38 is needed");
  CHECK(message({.spacing = "cosine"}) == "timestep_spacing is 'cosine', one of leading, linspace, trailing, karras is needed");
  CHECK(message({.guidance_interval = {{3, 1}}}) ==
        "guidance_interval is [3.0, 1.0], two noise levels are needed: 0 or more, and a higher one");
}
