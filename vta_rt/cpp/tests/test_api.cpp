#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
#include <vta_rt.hpp>

namespace {

// A second of a bright square that moves over a dark ground.
struct Film {
  std::vector<std::vector<uint8_t>> frames;
  vta_rt::Frames view;

  explicit Film(int count = 25, int width = 96, int height = 64) {
    view.width = width;
    view.height = height;
    for (int index = 0; index < count; ++index) {
      auto& pixels = frames.emplace_back(static_cast<size_t>(3 * width * height), uint8_t{20});
      for (int y = 20; y < 40; ++y) {
        std::memset(pixels.data() + 3 * (static_cast<size_t>(y) * static_cast<size_t>(width) + static_cast<size_t>(index)), 220, 60);
      }
      view.times.push_back(index / 25.0);
    }
    for (const auto& pixels : frames) view.rows.push_back(pixels.data());
    view.duration = count / 25.0;
  }
};

// Opened once, on one thread, as the machine may be busy.
const vta_rt::Bundle& demo() {
  static const vta_rt::Bundle bundle(VTA_RT_BUNDLE, "cpu", 1);
  return bundle;
}

std::string message_of(const vta_rt::Bundle& bundle, const vta_rt::Frames& frames, const vta_rt::Options& options = {}) {
  try {
    bundle.generate(frames, options);
  } catch (const vta_rt::Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("frames in memory become sound, the same for the same seed") {
  const vta_rt::Bundle& bundle = demo();
  CHECK(bundle.facts().frame_count == 128);
  const Film film(10);
  vta_rt::Options options;
  options.seed = 3;
  const vta_rt::Sound first = bundle.generate(film.view, options), again = bundle.generate(film.view, options);
  REQUIRE(first.size() == 6'400);
  CHECK(first.sample_rate() == 16'000);
  CHECK(std::memcmp(first.data(), again.data(), 4 * first.size()) == 0);
  options.seed = 4;
  CHECK(std::memcmp(first.data(), bundle.generate(film.view, options).data(), 4 * first.size()) != 0);
}

TEST_CASE("eight threads use one bundle") {
  const vta_rt::Bundle bundle(VTA_RT_BUNDLE, "cpu", 1);
  const Film film(5);
  vta_rt::Options options;
  options.steps = 1;
  const vta_rt::Sound alone = vta_rt::Bundle(VTA_RT_BUNDLE, "cpu", 1).generate(film.view, options);
  std::vector<int> same(8);
  {
    std::vector<std::jthread> threads;
    for (int& own : same) {
      threads.emplace_back([&] {
        const vta_rt::Sound sound = bundle.generate(film.view, options);
        own = sound.size() == alone.size() && std::memcmp(sound.data(), alone.data(), 4 * alone.size()) == 0 ? 1 : 0;
      });
    }
  }
  for (const int own : same) CHECK(own == 1);
}

TEST_CASE("progress is reported and can stop the work") {
  const vta_rt::Bundle& bundle = demo();
  const Film film(5);
  std::string stages;
  vta_rt::Options options;
  options.steps = 2;
  options.progress = [&](const std::string& stage, int done, int total) {
    stages += stage + " " + std::to_string(done) + "/" + std::to_string(total) + " ";
    return true;
  };
  bundle.generate(film.view, options);
  CHECK(stages == "frames 0/1 frames 1/1 encode 0/1 encode 1/1 denoise 0/2 denoise 1/2 denoise 2/2 decode 0/1 decode 1/1 "
                  "vocode 0/1 vocode 1/1 ");
  options.progress = [](const std::string& stage, int, int) { return stage != "denoise"; };
  CHECK_THROWS_WITH_AS(bundle.generate(film.view, options), "cancelled", vta_rt::Error);
  options.progress = [](const std::string&, int, int) -> bool { throw std::logic_error("the caller's own"); };
  CHECK_THROWS_WITH_AS(bundle.generate(film.view, options), "the caller's own", std::logic_error);
}

TEST_CASE("bad input is a code and a sentence") {
  vta_bundle* bundle = nullptr;
  CHECK(vta_bundle_open("no/such/folder", nullptr, &bundle) == VTA_ERROR_BUNDLE);
  CHECK(std::string(vta_bundle_message(bundle)) == "no/such/folder: no such file or folder");
  vta_result* result = nullptr;
  CHECK(vta_generate_file(bundle, "clip.mp4", nullptr, &result) == VTA_ERROR_OPTION);
  CHECK(std::string(vta_result_message(result)) == "the bundle is not open");
  CHECK(vta_result_samples(result) == nullptr);
  CHECK(vta_result_save(result, "x.wav") == VTA_ERROR_OPTION);
  vta_result_close(result);
  vta_bundle_close(bundle);
  CHECK(vta_bundle_open(nullptr, nullptr, &bundle) == VTA_ERROR_OPTION);
  vta_bundle_close(bundle);
  CHECK(vta_bundle_open("x", nullptr, nullptr) == VTA_ERROR_OPTION);
  vta_bundle_close(nullptr);
  vta_result_close(nullptr);

  CHECK_THROWS_WITH_AS(vta_rt::Bundle(VTA_RT_BUNDLE, "gpu"), doctest::Contains("backend 'gpu' is unknown; choose one of auto, cuda, cpu"),
                       vta_rt::Error);
  const vta_rt::Bundle& good = demo();
  const Film film(2);
  vta_rt::Options options;
  options.solver = "euler";
  CHECK(message_of(good, film.view, options) == "solver is 'euler', one of ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, unipc, lcm is needed");
  options = {};
  options.steps = 5000;
  CHECK(message_of(good, film.view, options) == "steps is 5000, an integer from 1 to 1000 is needed");
  options = {};
  options.guidance = std::nan("");
  CHECK(message_of(good, film.view, options) == "guidance is nan, a number from 0 to 3.4e+38 is needed");
  Film bad(2);
  bad.view.times[1] = 0;
  CHECK(message_of(good, bad.view) == "a frame appears at 0.0 s and disappears at 0.0 s; times must rise");
  bad = Film(2);
  bad.view.rows[1] = nullptr;
  CHECK(message_of(good, bad.view) == "rows[1] is NULL, a frame is needed");
  bad.view.width = 100'000;
  CHECK(message_of(good, bad.view) == "width is 100000, an integer from 1 to 32768 is needed");
  CHECK(message_of(good, vta_rt::Frames{}) == "count is 0, an integer of 1 or more is needed");
}

#ifdef VTA_RT_VIDEO
TEST_CASE("a video file becomes a sound file") {
  const vta_rt::Bundle& bundle = demo();
  vta_rt::Sound sound = bundle.generate(std::string(VTA_RT_BUNDLE) + "/sample.mp4");
  CHECK(sound.size() == 81'920);
  CHECK_THROWS_WITH_AS(sound.save("sound.mp3"), "sound.mp3: sound is saved as .wav, not .mp3", vta_rt::Error);
  CHECK_THROWS_WITH_AS(bundle.generate(std::string("missing.mp4")), "missing.mp4: no such file", vta_rt::Error);
}
#else
TEST_CASE("without video files frames are asked for") {
  const vta_rt::Bundle& bundle = demo();
  CHECK_THROWS_WITH_AS(bundle.generate(std::string("clip.mp4")), doctest::Contains("hand in frames"), vta_rt::Error);
}
#endif
