#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "error.hpp"
#include "manifest.hpp"

using nlohmann::json;

namespace {

json demo() {
  std::ifstream file(std::string(VTA_RT_BUNDLE) + "/bundle.json");
  return json::parse(file);
}

// What is said of a document; empty if it is a manifest.
std::string complaint(const std::string& text) {
  try {
    vta::parse_manifest(text, "bundle.json");
  } catch (const vta::BundleError& error) {
    return error.what();
  }
  return "";
}

std::string complaint(const char* pointer, const json& value) {
  json document = demo();
  document[json::json_pointer(pointer)] = value;
  return complaint(document.dump());
}

}  // namespace

TEST_CASE("the demo's manifest is read") {
  const vta::Manifest manifest = vta::read_manifest(VTA_RT_BUNDLE);
  CHECK(manifest.model.latent_shape() == std::vector<int64_t>{1, 8, 128, 16});
  CHECK(manifest.model.frame_count(manifest.frames) == 128);
  CHECK(manifest.sampling.solver == "ddim");
  CHECK(manifest.graphs.size() == 5);
  CHECK(manifest.files().size() == 9);  // two graphs share their weights
}

TEST_CASE("what is wrong in a manifest is named") {
  const json null;
  const std::pair<std::string, std::string> table[] = {
      {complaint("/model/seconds", "x"), "Expected `float`, got `str` - at `$.model.seconds`"},
      {complaint("/model/seconds", 0), "seconds is 0.0, a positive number is needed - at `$.model`"},
      {complaint("/model/seconds", 1e9), "seconds is 1000000000.0, at most 3600 is allowed - at `$.model`"},
      {complaint("/model/sample_rate", 16000.0), "Expected `int`, got `float` - at `$.model.sample_rate`"},
      {complaint("/model/mel_bins", 2), "latents of a window would be [1, 8, 128, 0], 1 to 1073741824 values are allowed - at `$.model`"},
      {complaint("/model/text", 3), "Expected `object | null`, got `int` - at `$.model.text`"},
      {complaint("/frames/fit", "x"), "Invalid enum value 'x' - at `$.frames.fit`"},
      {complaint("/frames/size", 100000), "size is 100000, at most 4096 is allowed - at `$.frames`"},
      {complaint("/frames/rate", 24), "frames.tokens_per_second is 25, but a token for every 1 of 24 frames a second makes 24"},
      {complaint("/graphs/vocoder/inputs/0/shape", {1.5}), "Expected `int | str`, got `float` - at `$.graphs[...].inputs[0].shape[0]`"},
      {complaint("/graphs/vocoder/inputs/0/shape", {1, 2, "a", 3}),
       "mel of graph vocoder is float32 [1, 2, a, 3], which is not the model's float32 [any, 1, any, 64]"},
      {complaint("/graphs/vocoder/inputs/0/name", "x"), "the inputs of graph vocoder are x, not mel"},
      {complaint("/graphs/vocoder/graph/file", "../x"), "'../x' is not a file name inside the bundle"},
      {complaint("/graphs/vocoder/graph/file", std::string("a\0b", 3)), "'a\\x00b' is not a file name inside the bundle"},
      {complaint("/graphs", json::object()), "lists no graph visual_encoder, denoiser, denoiser_unguided, vae_decoder, vocoder"},
      {complaint("/sampling/steps", 0), "its section sampling is not possible: steps is 0, an integer from 1 to 1000 is needed"},
      {complaint("/sampling/guidance_interval", {1}), "Expected `array` of length 2, got 1 - at `$.sampling.guidance_interval`"},
      {complaint("/schedule/beta_start", 3), "beta_start is 3.0, a number between 0 and 1 is needed - at `$.schedule`"},
      {complaint("/source", null), "Expected `object`, got `null` - at `$.source`"},
      {complaint("/format_version", 99), "format version 99 was written by a newer vta_rt; this one reads up to 1: upgrade it"},
      {complaint("/format_version", 0), "format version 0 is not one that this vta_rt reads"},
      {complaint("/format_version", true), "has no format_version"},
      {complaint("[]"), "has no format_version"},
  };
  for (const auto& [found, expected] : table) CHECK(found == "bundle.json: " + expected);
  CHECK(complaint("{").starts_with("bundle.json: is not valid JSON ("));
  CHECK(complaint(std::string(100'000, '[')).starts_with("bundle.json: is not valid JSON (it is nested too deeply)"));
}
