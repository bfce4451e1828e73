#include "pipeline.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <thread>

#include "error.hpp"
#include "noise.hpp"
#include "platform.hpp"
#include "text.hpp"
#include "verification.hpp"

namespace vta {
namespace {

const char* denoiser(double guidance) { return guidance == UNGUIDED ? "denoiser_unguided" : "denoiser"; }

void check_presence(const std::string& folder, const FileRecord& record) {
  const std::string path = join_path(folder, record.file);
  if (!is_ordinary_file(path)) throw BundleError(path + ": is missing from the bundle; build or copy it again");
  const int64_t size = file_size(path);
  if (size != record.size) {
    throw BundleError(path + ": has " + show(size) + " bytes instead of the manifest's " + show(record.size) +
                      "; build or copy it again");
  }
}

// One clip's values as a batch: zeros for the other clips, and behind its own rows along the first axis.
Array pad_batch(const Array& clip, int64_t batch, int64_t length) {
  Shape shape = clip.shape;
  shape[0] = length;
  shape.insert(shape.begin(), batch);
  Array padded(shape);
  std::copy(clip.values.begin(), clip.values.end(), padded.values.begin());
  return padded;
}

// The first clip of a batch.
Array first_clip(Array batch) {
  batch.shape.erase(batch.shape.begin());
  batch.values.resize(static_cast<size_t>(count_values(batch.shape)));
  return batch;
}

std::vector<float> repeat(std::vector<float> values, int64_t times) {
  const size_t size = values.size();
  values.resize(size * static_cast<size_t>(times));
  for (size_t index = size; index < values.size(); ++index) values[index] = values[index - size];
  return values;
}

}  // namespace

FrameTimes::FrameTimes(double rate, double seconds) {
  // The shortest decimal that is this number, as digits and a power of ten.
  std::string digits;
  int64_t exponent = 0;
  char text[40];
  const auto done = std::to_chars(text, text + sizeof text, rate, std::chars_format::scientific);
  const std::string_view shortest(text, static_cast<size_t>(done.ptr - text));
  const size_t mark = shortest.find('e');
  for (const char c : shortest.substr(0, mark)) {
    if (c != '.') digits += c;
  }
  parse_number(shortest.substr(mark + (shortest[mark + 1] == '+' ? 2 : 1)), exponent);
  parse_number(std::string_view(digits), rate_numerator_);
  exponent -= static_cast<int64_t>(digits.size()) - 1;
  // Rates are at most 1000, and far from the smallest: nothing here is beyond 64 bits but a rate of more digits than matter.
  for (; exponent > 0; --exponent) rate_numerator_ *= 10;
  for (; exponent < 0; ++exponent) {
    if (rate_denominator_ > 1'000'000'000) {
      rate_numerator_ /= 10;
    } else {
      rate_denominator_ *= 10;
    }
  }
  total_ = static_cast<int64_t>(std::ceil(round_decimals(seconds * rate, 6)));
}

int64_t FrameTimes::count_until(long double numerator, int64_t denominator) {
  // index / rate < time, in long double: products of 64 bits times a few are exact, or err by less than any clock's unit.
  const long double limit = numerator * static_cast<long double>(rate_numerator_);
  const long double unit = static_cast<long double>(denominator) * static_cast<long double>(rate_denominator_);
  const int64_t before = index_;
  while (index_ < total_ && static_cast<long double>(index_) * unit < limit) ++index_;
  return index_ - before;
}

Bundle::Bundle(const std::string& folder, const std::string& backend, int threads) : folder_(folder) {
  if (!exists(folder)) throw BundleError(folder + ": no such file or folder");
  manifest_ = read_manifest(folder);
  const auto files = manifest_.files();
  for (const FileRecord& record : files) check_presence(folder, record);
  Verification verification;
  for (const FileRecord& record : files) {
    const std::string path = join_path(folder, record.file);
    if (!verification.has_hash(path, record.sha256)) {
      throw BundleError(path + ": its sha256 is not the manifest's; the file was altered or damaged");
    }
  }
  verification.save();
  backend_ = choose_backend(backend, threads);
  for (const auto& [name, record] : manifest_.graphs) {
    slots_[name];
    if (record.precision == "bf16" && backend_.provider.empty()) {
      throw BundleError(folder + ": " + name + " is bf16, which needs engines that suit this machine; for CPUs build with --precision fp32");
    }
  }
}

Session& Bundle::session(const std::string& graph) const {
  Slot& slot = slots_.at(graph);
  const std::lock_guard lock(slot.loading);
  if (!slot.session) slot.session = std::make_unique<Session>(folder_, graph, manifest_.graphs.at(graph), backend_);
  return *slot.session;
}

Audio Bundle::generate(const std::function<Clip()>& read, const GenerateOptions& options, const std::string& name) const {
  const SamplingPlan plan = options.sampling.over(manifest_.sampling).plan(manifest_.schedule);
  const auto report = [&](const char* stage, int64_t done, int64_t total) {
    if (options.progress) options.progress(stage, done, total);
  };
  const auto observe = [&](const char* what, const Array& array) {
    if (options.observe) options.observe(what, array.shape, array.values.data());
  };
  std::vector<std::string> needed = {"visual_encoder"};
  for (const char* graph : {"denoiser", "denoiser_unguided"}) {
    const auto uses = [&](double scale) { return denoiser(scale) == std::string(graph); };
    if (std::any_of(plan.guidance_scales.begin(), plan.guidance_scales.end(), uses)) needed.emplace_back(graph);
  }
  needed.insert(needed.end(), {"vae_decoder", "vocoder"});

  Clip clip;
  {
    // Whoever asks for a graph that cannot be loaded gets the error, so that one of the video comes first.
    const std::jthread loader([&] {
      try {
        for (const std::string& graph : needed) session(graph);
      } catch (const std::exception&) {
      }
    });
    report("frames", 0, 1);
    clip = read();
    report("frames", 1, 1);
  }
  for (const std::string& graph : needed) session(graph);
  const int64_t size = manifest_.frames.size;
  if (options.observe) options.observe("frames", {clip.count, size, size, 3}, clip.frames.data());

  report("encode", 0, 1);
  const Array tokens = encode(clip);
  observe("tokens", tokens);
  report("encode", 1, 1);
  const Array latents = denoise(plan, options.seed, tokens, options);
  report("decode", 0, 1);
  const auto run = [&](const char* graph, const char* input, const Array& array) {
    Session& stage = session(graph);
    const Array batch = pad_batch(array, std::max<int64_t>(1, stage.fixed_size(input, 0)), array.shape[0]);
    Inputs inputs;
    inputs.emplace_back(input, as_value(batch.values, batch.shape));
    return first_clip(stage.run(inputs));
  };
  const Array mel = run("vae_decoder", "latents", latents);
  observe("mel", mel);
  report("decode", 1, 1);
  report("vocode", 0, 1);
  Array wave = run("vocoder", "mel", mel);
  observe("wave", wave);
  report("vocode", 1, 1);
  if (!std::all_of(wave.values.begin(), wave.values.end(), [](float value) { return std::isfinite(value); })) {
    throw ModelError(name + ": the model gave values that are not finite; a bundle at fp32 may help");
  }
  const auto rate = static_cast<double>(manifest_.model.sample_rate);
  const double duration = std::max(std::min(clip.duration, manifest_.model.seconds), 1 / rate);
  wave.values.resize(static_cast<size_t>(std::nearbyint(duration * rate)));
  return {std::move(wave.values), manifest_.model.sample_rate};
}

Array Bundle::encode(const Clip& clip) const {
  Session& encoder = session("visual_encoder");
  const FrameConfig& frames = manifest_.frames;
  const int64_t fixed = encoder.fixed_size("frames", 0), size = frames.size;
  const int64_t count = std::max(clip.count, fixed != 0 ? fixed : frames.padded_count(clip.count));
  // Where the graph needs more frames, the last one is repeated; the tokens of the repeats are dropped.
  std::vector<uint8_t> filled = clip.frames;
  const auto bytes = static_cast<size_t>(3 * size * size);
  filled.resize(static_cast<size_t>(count) * bytes);
  for (size_t index = clip.frames.size(); index < filled.size(); ++index) filled[index] = filled[index - bytes];
  Inputs inputs;
  inputs.emplace_back("frames", as_value(filled, {count, size, size, 3}));
  Array tokens = encoder.run(inputs);
  tokens.shape[0] = std::min(tokens.shape[0], frames.token_count(clip.count));
  tokens.values.resize(static_cast<size_t>(count_values(tokens.shape)));
  return tokens;
}

Array Bundle::denoise(const SamplingPlan& plan, uint64_t seed, const Array& tokens, const GenerateOptions& options) const {
  const auto total = static_cast<int64_t>(plan.table.size());
  Session* stage = &session(denoiser(plan.guidance_scales.front()));
  const int64_t batch = std::max<int64_t>(1, stage->fixed_size("latents", 0));
  const int64_t length = std::max(tokens.shape[0], stage->fixed_size("tokens", 1));
  Shape shape = manifest_.model.latent_shape();
  shape[0] = batch;
  const auto clip_values = static_cast<size_t>(count_values(shape) / batch);

  NoiseGenerator generator(seed);
  const auto sample = [&] { return repeat(generator.normals(clip_values), batch); };
  std::vector<float> noise(clip_values * static_cast<size_t>(batch));
  const std::vector<float> start = sample(), zeros = noise;
  const Array conditioning = pad_batch(tokens, batch, length);
  std::vector<uint8_t> mask(static_cast<size_t>(batch * length)), ones(mask.size(), 1);
  std::fill_n(mask.begin(), tokens.shape[0], uint8_t{1});
  const std::vector<float> negative(conditioning.values.size());

  // What one row leaves to the next stays where the provider has it.
  Ort::Value latents = as_value(start, shape), previous = as_value(zeros, shape);
  const Ort::MemoryInfo host = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  for (int64_t index = 0; index < total; ++index) {
    if (options.progress) options.progress("denoise", index, total);
    const TableRow& row = plan.table[static_cast<size_t>(index)];
    const double scale = plan.guidance_scales[static_cast<size_t>(index)];
    stage = &session(denoiser(scale));
    if (row.s != 0.0) noise = sample();
    const std::vector<float> timestep(static_cast<size_t>(batch), static_cast<float>(row.timestep));
    std::vector<float> step(8);
    const double coefficients[] = {row.p, row.q, row.a, row.b, row.c, row.s, scale};
    std::transform(std::begin(coefficients), std::end(coefficients), step.begin(), [](double value) { return static_cast<float>(value); });

    Ort::IoBinding binding = stage->bind();
    binding.BindInput("latents", latents);
    binding.BindInput("previous", previous);
    binding.BindInput("noise", as_value(noise, shape));
    binding.BindInput("tokens", as_value(conditioning.values, conditioning.shape));
    binding.BindInput("token_mask", as_mask(mask, {batch, length}));
    binding.BindInput("timestep", as_value(timestep, {batch}));
    binding.BindInput("step", as_value(step, {8}));
    if (stage->has_input("negative_tokens")) {
      binding.BindInput("negative_tokens", as_value(negative, conditioning.shape));
      binding.BindInput("negative_mask", as_mask(ones, {batch, length}));
    }
    const bool is_read = options.observe || index + 1 == total;
    binding.BindOutput("latents_next", is_read ? host : stage->device());
    binding.BindOutput("denoised", is_read ? host : stage->device());
    stage->run(binding);
    std::vector<Ort::Value> outputs = binding.GetOutputValues();
    latents = std::move(outputs[0]);
    previous = std::move(outputs[1]);
    if (options.observe) {
      const Array clip = first_clip(as_array(latents));
      options.observe("latents", clip.shape, clip.values.data());
    }
  }
  if (options.progress) options.progress("denoise", total, total);
  return first_clip(as_array(latents));
}

}  // namespace vta
