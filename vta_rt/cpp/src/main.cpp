// The program vta-rt: what `vta generate` does for video files, with the same options, messages and exit codes.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>

#include "error.hpp"
#include "frames.hpp"
#include "mux.hpp"
#include "pipeline.hpp"
#include "platform.hpp"
#include "text.hpp"

namespace {

namespace fs = std::filesystem;
using vta::OptionError;
using vta::OutputError;

constexpr int PARTLY_DONE = 1, BAD_INPUT = 2;
constexpr const char* FORMATS[] = {".wav", ".mp4", ".mov", ".mkv", ".webm"};
volatile std::sig_atomic_t stopped_by = 0;

struct Options {
  std::vector<std::string> videos;
  std::string out, format, bundle, backend = "auto";
  std::optional<int64_t> steps, threads, track;
  std::optional<std::string> solver, spacing;
  std::optional<double> guidance;
  std::vector<double> guidance_interval;
  int64_t seed = 0;
  bool overwrite = false, skip_existing = false, strict = false;
  std::vector<std::string> limits;
};

struct Job {
  std::string video, out;
  bool has_suffix = true;  // otherwise that of the container is added once the video is known
};

void say(const std::string& text) { std::cerr << vta::one_line(text, std::string::npos) << '\n'; }

std::string name_of(const std::string& path) { return fs::path(path).filename().string(); }
std::string stem_of(const std::string& path) { return fs::path(path).stem().string(); }

bool is_format(const std::string& suffix) { return std::find(std::begin(FORMATS), std::end(FORMATS), suffix) != std::end(FORMATS); }

bool names_folder(const std::string& out) {
  return out.ends_with('/') || vta::is_folder(out) || fs::path(out).extension().empty();
}

// A name for the result of each video, without suffix: with the video's own where there would be two otherwise.
std::vector<std::string> name_results(const std::vector<std::string>& videos) {
  std::vector<std::string> names;
  for (const std::string& video : videos) names.push_back(stem_of(video));
  for (;;) {
    std::vector<std::string> longer;
    for (size_t index = 0; index < videos.size(); ++index) {
      longer.push_back(std::count(names.begin(), names.end(), names[index]) > 1 ? name_of(videos[index]) : names[index]);
    }
    if (longer == names) return names;
    names = longer;
  }
}

std::vector<Job> plan_outputs(const Options& options, std::vector<std::string>& errors) {
  const std::vector<std::string>& videos = options.videos;
  const std::string wanted = options.format.empty() ? "" : "." + options.format;
  if (!options.out.empty() && !names_folder(options.out)) {
    const std::string suffix = vta::suffix_of(options.out), own = fs::path(options.out).extension().string();
    if (!is_format(suffix)) {
      throw OptionError(options.out + ": " + own + " is not a format that is written; " +
                        vta::join({std::begin(FORMATS), std::end(FORMATS)}) +
                        " are, .wav for every video, and a name without suffix is a folder");
    }
    if (!wanted.empty() && wanted != suffix) {
      throw OptionError(options.out + ": ends in " + own + " but --format says " + options.format + "; give one of the two");
    }
    if (videos.size() > 1) throw OptionError(options.out + ": is one file for " + std::to_string(videos.size()) + " videos; name a folder");
    return {{videos.front(), options.out}};
  }
  std::vector<Job> jobs;
  const auto names = name_results(videos);
  for (size_t index = 0; index < videos.size(); ++index) {
    const std::string name = names[index] + (options.out.empty() ? "_with_sound" : "") + wanted;
    const std::string target = options.out.empty() ? name : vta::join_path(options.out, name);
    if (std::count(names.begin(), names.end(), names[index]) > 1) {
      errors.push_back(videos[index] + ": its result " + target + " is that of another video of that name too; give them one by one");
    } else {
      jobs.push_back({videos[index], target, !wanted.empty()});
    }
  }
  return jobs;
}

std::string find_bundle(const std::string& name) {
  std::string own = name.empty() ? vta::get_environment("VTA_BUNDLE") : name;
  if (own.empty()) {
    own = "engines/demo";
    if (!vta::exists(own)) throw vta::BundleError("no bundle given; name one with --bundle or $VTA_BUNDLE");
  }
  const std::string here = vta::join_path("engines", own);
  return vta::exists(own) || own.find('/') != std::string::npos || !vta::exists(here) ? own : here;
}

bool has_result(const Job& job) {
  if (job.has_suffix) return vta::exists(job.out);
  return std::any_of(std::begin(FORMATS) + 1, std::end(FORMATS), [&](const char* suffix) { return vta::exists(job.out + suffix); });
}

// Makes the sound for one video and writes it; returns the line to print.
std::string make(const vta::Bundle& bundle, const Options& options, const vta::GenerateOptions& generating, const Job& job) {
  const auto start = std::chrono::steady_clock::now();
  vta::VideoOptions reading;
  reading.track = options.track;
  reading.strict = options.strict;
  for (const std::string& limit : options.limits) reading.limits.set(limit);
  reading.warn = say;
  vta::Video video(job.video, reading);
  const std::string target = job.has_suffix ? job.out : job.out + vta::choose_container(video);
  const bool is_sound = vta::suffix_of(target) == ".wav";
  for (const std::string& source : options.videos) {
    if (vta::real_path(target) == vta::real_path(source)) {
      throw OutputError(target + ": is a source video and would be replaced; name another folder or file");
    }
  }
  if (const std::string problem = vta::check_writable(target); !problem.empty()) throw OutputError(target + ": " + problem);
  if (vta::is_ordinary_file(target) && !options.overwrite) {
    throw OutputError(target + ": exists; --overwrite replaces it, --skip-existing leaves it");
  }
  if (!is_sound) vta::check_mux(video, target);
  const vta::Audio audio = bundle.generate([&] { return vta::read_clip(video, bundle.manifest()); }, generating, job.video);
  if (const std::string problem = vta::make_folders(target); !problem.empty()) throw OutputError(target + ": " + problem);
  if (is_sound) {
    vta::save_wav(audio, target);
  } else {
    vta::mux(video, audio, target);
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  const std::string rest = audio.duration() < video.duration() - 0.01
                               ? "; the video is " + vta::fixed(video.duration(), 2) + " s, longer than the model"
                               : "";
  return target + "  " + vta::fixed(audio.duration(), 2) + " s of sound in " + vta::fixed(taken.count(), 1) + " s" + rest;
}

int generate(const Options& options) {
  if (options.videos.empty()) throw OptionError("no video given; name one, or describe the sound with --text");
  if (options.track && *options.track < 0) throw OptionError("video track is " + vta::show(*options.track) + ", an integer from 0 is needed");
  if (options.overwrite && options.skip_existing) {
    throw OptionError("--overwrite and --skip-existing exclude each other; give one of the two");
  }
  vta::check_integer("seed", options.seed, 0);
  if (options.threads) vta::check_integer("threads", *options.threads, 1);
  vta::Limits limits;
  for (const std::string& limit : options.limits) limits.set(limit);
  std::vector<std::string> errors;
  const std::vector<Job> jobs = plan_outputs(options, errors);
  for (const std::string& error : errors) say("error: " + error);

  vta::GenerateOptions generating;
  generating.seed = static_cast<uint64_t>(options.seed);
  generating.sampling = {options.steps, options.solver, options.guidance, options.spacing, std::nullopt};
  if (!options.guidance_interval.empty()) generating.sampling.guidance_interval = {options.guidance_interval[0], options.guidance_interval[1]};
  generating.progress = [](const char*, int64_t, int64_t) {
    if (stopped_by != 0) throw vta::Cancelled();
  };
  size_t failed = errors.size(), existing = 0;
  std::optional<vta::Bundle> bundle;
  for (const Job& job : jobs) {
    if (options.skip_existing && has_result(job)) {
      ++existing;
      continue;
    }
    if (!bundle) bundle.emplace(find_bundle(options.bundle), options.backend, static_cast<int>(options.threads.value_or(0)));
    try {
      generating.sampling.over(bundle->manifest().sampling).plan(bundle->manifest().schedule);  // what is wrong is said first
      std::cout << make(*bundle, options, generating, job) << std::endl;
    } catch (const OptionError&) {
      throw;  // the same for every video
    } catch (const vta::Cancelled&) {
      throw;
    } catch (const vta::Error& error) {
      ++failed;
      say(std::string("error: ") + error.what());
    }
  }
  const size_t all = jobs.size() + errors.size(), done = all - failed;
  if (existing > 0) std::cout << existing << " of " << jobs.size() << " exist already\n";
  if (all > 1) {
    std::cout << done - existing << " made";
    if (failed > 0) std::cout << ", " << failed << " failed";
    std::cout << '\n';
  }
  if (failed == 0) return 0;
  return done > 0 ? PARTLY_DONE : BAD_INPUT;
}

}  // namespace

int main(int count, char** arguments) {
  av_log_set_level(AV_LOG_QUIET);  // what matters is said in one line
  CLI::App app("Sound for silent video.", "vta-rt");
  Options options;
  app.set_version_flag("--version", std::string("vta_rt ") + VTA_RT_VERSION);
  app.require_subcommand(1);
  CLI::App* command = app.add_subcommand("generate", "make sound for videos");
  command->add_option("videos", options.videos, "video files, anything FFmpeg reads");
  command->add_option("-o,--out", options.out,
                      "a file ending in .wav (sound) or .mp4, .mov, .mkv, .webm (the video with sound), or a folder, made if needed; several "
                      "videos need a folder (default: NAME_with_sound.EXT here)");
  command->add_option("--format", options.format, "of files written into a folder")->check(CLI::IsMember({"wav", "mp4", "mov", "mkv", "webm"}));
  command->add_option("--bundle", options.bundle, "the model: a bundle's folder (default: $VTA_BUNDLE, or engines/demo here)");
  command->add_option("--steps", options.steps, "denoising steps; more is slower and finer (default: the model's own)");
  command->add_option("--solver", options.solver, "ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, unipc, lcm (default: the model's own)");
  command->add_option("--guidance", options.guidance, "how closely to follow the video; 1 takes half the time (default: the model's own)");
  command->add_option("--guidance-interval", options.guidance_interval, "guide only the steps whose noise level lies between the two")->expected(2);
  command->add_option("--spacing", options.spacing, "of the timesteps: leading, linspace, trailing, karras (default: the model's own)");
  command->add_option("--seed", options.seed, "same seed, same sound (default: 0)");
  command->add_option("--backend", options.backend, "auto, cuda, cpu, or a provider of ONNX Runtime (default: auto)");
  command->add_option("--threads", options.threads, "processor cores to use (default: all)");
  command->add_flag("--overwrite", options.overwrite, "replace results that exist, which is refused otherwise");
  command->add_flag("--skip-existing", options.skip_existing, "leave out videos whose result exists");
  command->add_option("--video-track", options.track, "video stream to use, counted from 0");
  command->add_flag("--strict", options.strict, "refuse files whose headers promise more");
  command->add_option("--limit", options.limits, "NAME=VALUE, see docs/files.md")->expected(1)->take_all();
  for (const int number : {SIGINT, SIGTERM}) {
    std::signal(number, [](int received) { stopped_by = received; });
  }
  try {
    app.parse(count, arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : BAD_INPUT;
  }
  try {
    return generate(options);
  } catch (const vta::Cancelled&) {
    say("interrupted");
    return 128 + stopped_by;
  } catch (const std::bad_alloc&) {
    say("error: there is not enough memory");
  } catch (const std::exception& error) {
    say(std::string("error: ") + error.what());
  }
  return BAD_INPUT;
}
