#include "manifest.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "error.hpp"
#include "platform.hpp"
#include "text.hpp"

namespace vta {
namespace {

using nlohmann::json;

constexpr int64_t FORMAT_VERSION = 1;
constexpr int64_t MAX_DOCUMENT_BYTES = 64 << 20;
constexpr int MAX_DEPTH = 100;                // of nested arrays and objects; a manifest has seven
constexpr int64_t MAX_WINDOW_VALUES = 1 << 30;  // of the latents or the frames of one window
constexpr int64_t MAX_FRAME_SIZE = 4096;

template <typename Number>
void require_positive(const char* name, Number value, double maximum) {
  if (!(value > 0) || !std::isfinite(static_cast<double>(value))) {
    throw OptionError(std::string(name) + " is " + show(value) + ", a positive number is needed");
  }
  if (static_cast<double>(value) > maximum) {
    throw OptionError(std::string(name) + " is " + show(value) + ", at most " + general(maximum) + " is allowed");
  }
}

// A value of the document and where it is, such as $.model.seconds; raises what msgspec says to Python's reader.
class Node {
 public:
  Node(const json& value, std::string path) : value_(value), path_(std::move(path)) {}

  [[noreturn]] void fail(const std::string& text) const {
    throw OptionError(path_ == "$" ? text : text + " - at `" + path_ + "`");
  }

  bool is_null() const { return value_.is_null(); }

  const Node& object(bool or_null = false) const { return expect(value_.is_object(), "object", or_null); }

  // The member of that name; reads it with `read` if it is there, else fails if it is required.
  template <typename Read>
  bool member(const std::string& name, Read&& read, bool is_required = false) const {
    const auto found = value_.find(name);
    if (found == value_.end()) {
      if (is_required) fail("Object missing required field `" + name + "`");
      return false;
    }
    read(Node(*found, path_ + "." + name));
    return true;
  }

  template <typename Value>
  void field(const std::string& name, Value& value, bool is_required = false) const {
    member(name, [&](const Node& node) { node.get(value); }, is_required);
  }

  void get(int64_t& value) const {
    expect(value_.is_number_integer(), "int");
    if (value_.is_number_unsigned() && value_.get<uint64_t>() > std::numeric_limits<int64_t>::max()) fail("Number out of range");
    value = value_.get<int64_t>();
  }
  void get(double& value) const {
    expect(value_.is_number(), "float");
    value = value_.get<double>();
  }
  void get(bool& value) const {
    expect(value_.is_boolean(), "bool");
    value = value_.get<bool>();
  }
  void get(std::string& value) const {
    expect(value_.is_string(), "str");
    value = value_.get<std::string>();
  }
  void get(Size& value) const {
    expect(value_.is_number_integer() || value_.is_string(), "int | str");
    if (value_.is_string()) {
      value = value_.get<std::string>();
    } else {
      int64_t number = 0;
      get(number);
      value = number;
    }
  }
  template <typename Value>
  void get(std::optional<Value>& value) const {
    if (is_null()) return;
    Value own{};
    get(own);
    value = own;
  }
  void get(std::optional<std::pair<double, double>>& value) const {
    if (is_null()) return;
    expect(value_.is_array(), "array", true);
    if (value_.size() != 2) fail("Expected `array` of length 2, got " + std::to_string(value_.size()));
    std::pair<double, double> pair;
    item(0).get(pair.first);
    item(1).get(pair.second);
    value = pair;
  }
  template <typename Value>
  void get(std::vector<Value>& values) const {
    expect(value_.is_array(), "array");
    for (size_t index = 0; index < value_.size(); ++index) item(index).get(values.emplace_back());
  }
  template <typename Value>
  void get(std::map<std::string, Value>& values) const {
    object();
    for (const auto& [name, value] : value_.items()) Node(value, path_ + "[...]").get(values[name]);
  }

  void choice(std::string& value, std::initializer_list<const char*> allowed) const {
    get(value);
    if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) fail("Invalid enum value " + quote(value));
  }

  void get(FileRecord& record) const {
    object();
    field("file", record.file, true);
    field("size", record.size, true);
    field("sha256", record.sha256, true);
  }
  void get(TensorSpec& spec) const {
    object();
    field("name", spec.name, true);
    field("shape", spec.shape, true);
    field("dtype", spec.dtype, true);
  }
  void get(GraphRecord& record) const {
    object();
    field("graph", record.graph, true);
    field("weights", record.weights, true);
    field("inputs", record.inputs, true);
    field("outputs", record.outputs, true);
    member("precision", [&](const Node& node) { node.choice(record.precision, {"fp32", "fp16", "bf16", "int8"}); }, true);
    std::map<std::string, double> error;
    field("error", error);
    std::string key;
    field("key", key);
    member("operations", [](const Node& node) { node.expect(node.value_.is_number(), "float", true); });
  }
  void get(TextConfig& text) const {
    object(true);
    field("vocabulary", text.vocabulary);
    field("context", text.context);
    checked(text);
  }
  void get(ModelConfig& model) const {
    object();
    field("seconds", model.seconds, true);
    field("sample_rate", model.sample_rate);
    field("hop_length", model.hop_length);
    field("mel_bins", model.mel_bins);
    field("latent_channels", model.latent_channels);
    field("latent_stride", model.latent_stride);
    field("token_width", model.token_width);
    field("positions", model.positions);
    field("text", model.text);
    checked(model);
  }
  void get(FrameConfig& frames) const {
    object();
    field("rate", frames.rate);
    field("size", frames.size);
    member("fit", [&](const Node& node) { node.choice(frames.fit, {"crop", "squash"}); });
    field("clip_length", frames.clip_length);
    field("clip_stride", frames.clip_stride);
    field("tokens_per_second", frames.tokens_per_second);
    field("resize", frames.resize);
    member("kernel", [&](const Node& node) { node.choice(frames.kernel, {"bicubic", "bilinear"}); });
    field("encoder", frames.encoder);
    checked(frames);
  }
  void get(NoiseSchedule& schedule) const {
    object();
    field("train_timesteps", schedule.train_timesteps);
    field("beta_schedule", schedule.beta_schedule);
    field("beta_start", schedule.beta_start);
    field("beta_end", schedule.beta_end);
    field("prediction_type", schedule.prediction_type);
    field("timestep_spacing", schedule.timestep_spacing);
    field("steps_offset", schedule.steps_offset);
    checked(schedule);
  }
  void get(Sampling& sampling) const {
    object();
    field("steps", sampling.steps);
    field("solver", sampling.solver);
    field("guidance", sampling.guidance);
    field("spacing", sampling.spacing);
    field("guidance_interval", sampling.guidance_interval);
  }

 private:
  Node item(size_t index) const { return {value_[index], path_ + "[" + std::to_string(index) + "]"}; }

  template <typename Config>
  void checked(const Config& config) const {
    try {
      config.check();
    } catch (const OptionError& error) {
      fail(error.what());
    }
  }

  const Node& expect(bool fits, const char* wanted, bool or_null = false) const {
    if (fits || (or_null && is_null())) return *this;
    fail("Expected `" + std::string(wanted) + (or_null ? " | null" : "") + "`, got `" + type() + "`");
  }

  const char* type() const {
    switch (value_.type()) {
      case json::value_t::null: return "null";
      case json::value_t::boolean: return "bool";
      case json::value_t::string: return "str";
      case json::value_t::array: return "array";
      case json::value_t::object: return "object";
      case json::value_t::number_float: return "float";
      default: return "int";
    }
  }

  static std::string quote(const std::string& text) { return "'" + text + "'"; }

  const json& value_;
  std::string path_;
};

using Shape = std::vector<int64_t>;  // ANY stands for a size that the graph may fix or leave open
constexpr int64_t ANY = -1;

struct Tensor {
  std::string name;
  Shape shape;
  std::string dtype;
};

struct Signature {
  std::string graph;
  std::vector<Tensor> inputs, outputs;
};

// Inputs and outputs that every graph must have.
std::vector<Signature> signatures(const ModelConfig& model, const FrameConfig& frames) {
  const Shape state = {ANY, model.latent_channels, model.latent_steps(), model.latent_bins()};
  const Shape mel = {ANY, 1, ANY, model.mel_bins}, tokens = {ANY, ANY, model.token_width};
  Signature step{"denoiser_unguided",
                 {{"latents", state, "float32"}, {"previous", state, "float32"}, {"noise", state, "float32"},
                  {"tokens", tokens, "float32"}, {"token_mask", {ANY, ANY}, "bool"}, {"timestep", {ANY}, "float32"},
                  {"step", {8}, "float32"}},
                 {{"latents_next", state, "float32"}, {"denoised", state, "float32"}}};
  Signature guided = step;
  guided.graph = "denoiser";
  if (model.text) {
    guided.inputs.push_back({"negative_tokens", tokens, "float32"});
    guided.inputs.push_back({"negative_mask", {ANY, ANY}, "bool"});
  }
  std::vector<Signature> all = {
      {"visual_encoder", {{"frames", {ANY, frames.size, frames.size, 3}, "uint8"}}, {{"tokens", {ANY, model.token_width}, "float32"}}},
      guided,
      step,
      {"vae_decoder", {{"latents", {ANY, model.latent_channels, ANY, model.latent_bins()}, "float32"}}, {{"mel", mel, "float32"}}},
      {"vocoder", {{"mel", mel, "float32"}}, {{"wave", {ANY, ANY}, "float32"}}}};
  if (model.text) {
    all.push_back({"text_encoder", {{"token_ids", {ANY, ANY}, "int64"}}, {{"tokens", {ANY, model.token_width}, "float32"}}});
  }
  return all;
}

bool fits(const TensorSpec& spec, const Tensor& wanted) {
  if (spec.dtype != wanted.dtype || spec.shape.size() != wanted.shape.size()) return false;
  for (size_t axis = 0; axis < spec.shape.size(); ++axis) {
    const auto* own = std::get_if<int64_t>(&spec.shape[axis]);
    if (wanted.shape[axis] != ANY && own != nullptr && *own != wanted.shape[axis]) return false;
  }
  return true;
}

template <typename Tensors>
std::string names_of(const Tensors& tensors) {
  std::vector<std::string> names;
  for (const auto& tensor : tensors) names.push_back(tensor.name);
  return join(names);
}

std::string compare(const std::string& graph, const char* kind, const std::vector<TensorSpec>& specs, const std::vector<Tensor>& wanted) {
  const auto find = [&](const TensorSpec& spec) {
    return std::find_if(wanted.begin(), wanted.end(), [&](const Tensor& tensor) { return tensor.name == spec.name; });
  };
  bool same = specs.size() == wanted.size();
  for (const TensorSpec& spec : specs) same = same && find(spec) != wanted.end();
  for (const Tensor& tensor : wanted) {
    same = same && std::any_of(specs.begin(), specs.end(), [&](const TensorSpec& spec) { return spec.name == tensor.name; });
  }
  if (!same) return "the " + std::string(kind) + " of graph " + graph + " are " + names_of(specs) + ", not " + names_of(wanted);
  for (const TensorSpec& spec : specs) {
    const Tensor& tensor = *find(spec);
    if (fits(spec, tensor)) continue;
    std::vector<std::string> own, sizes;
    for (const Size& size : spec.shape) {
      own.push_back(std::holds_alternative<int64_t>(size) ? show(std::get<int64_t>(size)) : std::get<std::string>(size));
    }
    for (const int64_t size : tensor.shape) sizes.push_back(size == ANY ? "any" : show(size));
    return spec.name + " of graph " + graph + " is " + spec.dtype + " [" + join(own) + "], which is not the model's " + tensor.dtype +
           " [" + join(sizes) + "]";
  }
  return "";
}

// Where a manifest contradicts itself, as the end of an error message; empty if it does not.
std::string find_contradiction(const Manifest& manifest) {
  for (const FileRecord& file : manifest.files()) {
    if (!is_file_name(file.file)) return show(file.file) + " is not a file name inside the bundle";
  }
  const FrameConfig& frames = manifest.frames;
  const int64_t window = manifest.model.frame_count(frames) * frames.size * frames.size * 3;
  if (window > MAX_WINDOW_VALUES) {
    return "the frames of a window are " + show(window) + " values, at most " + show(MAX_WINDOW_VALUES) + " are allowed";
  }
  if (frames.clip_length % frames.clip_stride != 0) {
    return "frames.clip_length " + show(frames.clip_length) + " is no multiple of frames.clip_stride " + show(frames.clip_stride);
  }
  const double tokens = frames.rate / static_cast<double>(frames.clip_stride);
  if (std::abs(frames.tokens_per_second - tokens) > 1e-6 * std::max(frames.tokens_per_second, tokens)) {
    return "frames.tokens_per_second is " + general(frames.tokens_per_second) + ", but a token for every " +
           show(frames.clip_stride) + " of " + general(frames.rate) + " frames a second makes " + general(tokens);
  }
  try {
    manifest.sampling.plan(manifest.schedule);
  } catch (const OptionError& error) {
    return std::string("its section sampling is not possible: ") + error.what();
  }
  if (manifest.model.text && !manifest.tokenizer) return "its model takes prompts, but it lists no tokenizer";
  if (!manifest.model.text && manifest.tokenizer) return "it lists a tokenizer, but its model takes no prompts";
  const auto expected = signatures(manifest.model, frames);
  std::vector<std::string> missing;
  for (const Signature& signature : expected) {
    if (!manifest.graphs.contains(signature.graph)) missing.push_back(signature.graph);
  }
  if (!missing.empty()) return "lists no graph " + join(missing);
  for (const Signature& signature : expected) {
    const GraphRecord& record = manifest.graphs.at(signature.graph);
    std::string problem = compare(signature.graph, "inputs", record.inputs, signature.inputs);
    if (problem.empty()) problem = compare(signature.graph, "outputs", record.outputs, signature.outputs);
    if (!problem.empty()) return problem;
  }
  return "";
}

json parse_document(const std::string& text, const std::string& path) {
  try {
    return json::parse(text, [](int depth, json::parse_event_t, json&) {
      if (depth > MAX_DEPTH) throw OptionError("it is nested too deeply");
      return true;
    });
  } catch (const std::exception& error) {  // the library's own, or the one above
    throw BundleError(path + ": is not valid JSON (" + one_line(error.what()) + ")");
  }
}

void check_version(const json& document, const std::string& path) {
  const auto version = document.is_object() ? document.find("format_version") : document.end();
  if (version == document.end() || !version->is_number_integer()) throw BundleError(path + ": has no format_version");
  const std::string shown = version->dump();
  if (*version > FORMAT_VERSION) {
    throw BundleError(path + ": format version " + shown + " was written by a newer vta_rt; this one reads up to " +
                      show(FORMAT_VERSION) + ": upgrade it");
  }
  if (*version < 1) throw BundleError(path + ": format version " + shown + " is not one that this vta_rt reads");
}

}  // namespace

void FrameConfig::check() const {
  require_positive("rate", rate, 1000);
  require_positive("size", size, MAX_FRAME_SIZE);
  require_positive("clip_length", clip_length, 4096);
  require_positive("clip_stride", clip_stride, 4096);
  require_positive("tokens_per_second", tokens_per_second, 1000);
  if (resize != 0 && !(size <= resize && resize <= MAX_FRAME_SIZE)) {
    throw OptionError("resize is " + show(resize) + ", 0 or from the size " + show(size) + " to " + show(MAX_FRAME_SIZE) + " is needed");
  }
}

void TextConfig::check() const {
  require_positive("vocabulary", vocabulary, 1 << 24);
  require_positive("context", context, 65'536);
}

void ModelConfig::check() const {
  require_positive("seconds", seconds, 3600);
  require_positive("sample_rate", sample_rate, 768'000);
  require_positive("hop_length", hop_length, 65'536);
  require_positive("mel_bins", mel_bins, 4096);
  require_positive("latent_channels", latent_channels, 4096);
  require_positive("latent_stride", latent_stride, 1024);
  require_positive("token_width", token_width, 65'536);
  const auto shape = latent_shape();
  const int64_t values = shape[1] * shape[2] * shape[3];
  if (values < 1 || values > MAX_WINDOW_VALUES) {
    throw OptionError("latents of a window would be " + show_list(shape) + ", 1 to " + show(MAX_WINDOW_VALUES) + " values are allowed");
  }
}

int64_t ModelConfig::latent_steps() const {
  const double rate = static_cast<double>(sample_rate) / static_cast<double>(hop_length * latent_stride);
  return static_cast<int64_t>(std::nearbyint(seconds * rate));
}

int64_t ModelConfig::frame_count(const FrameConfig& frames) const {
  return static_cast<int64_t>(std::ceil(round_decimals(seconds * frames.rate, 6)));
}

std::vector<FileRecord> Manifest::files() const {
  std::vector<FileRecord> all;
  const auto add = [&](const FileRecord& record) {
    const auto same = [&](const FileRecord& other) { return other.file == record.file; };
    if (std::find_if(all.begin(), all.end(), same) == all.end()) all.push_back(record);
  };
  for (const auto& [name, record] : graphs) {
    add(record.graph);
    std::for_each(record.weights.begin(), record.weights.end(), add);
  }
  if (tokenizer) add(*tokenizer);
  return all;
}

bool is_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.size() < 256 &&
         name.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
}

Manifest parse_manifest(const std::string& text, const std::string& path) {
  const json document = parse_document(text, path);
  check_version(document, path);
  Manifest manifest;
  try {
    const Node root(document, "$");
    root.field("model", manifest.model, true);
    root.field("frames", manifest.frames, true);
    root.field("schedule", manifest.schedule, true);
    root.field("graphs", manifest.graphs, true);
    root.member("source", [&](const Node& source) {
      std::string ignored;
      std::map<std::string, std::string> hashes;
      source.object();
      source.field("checkpoint", ignored, true);
      source.field("sha256", hashes, true);
      source.field("exporter", ignored, true);
      source.field("licence", manifest.licence);
    }, true);
    std::vector<std::string> engines;
    root.field("engines", engines);
    root.field("sampling", manifest.sampling);
    root.field("tokenizer", manifest.tokenizer);
  } catch (const OptionError& error) {
    throw BundleError(path + ": " + error.what());
  }
  const std::string problem = find_contradiction(manifest);
  if (!problem.empty()) throw BundleError(path + ": " + problem);
  return manifest;
}

Manifest read_manifest(const std::string& folder) {
  const std::string path = join_path(folder, "bundle.json");
  if (!is_folder(folder)) throw BundleError(folder + ": is a file, a bundle's folder is needed");
  if (!exists(path)) throw BundleError(folder + ": is not a bundle, it has no bundle.json");
  std::string text;
  const std::string problem = read_file(path, MAX_DOCUMENT_BYTES, text);
  if (!problem.empty()) throw BundleError(path + ": " + problem);
  return parse_manifest(text, path);
}

}  // namespace vta
