// bundle.json: its schema, and reading and checking it as vta_rt/manifest.py does.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "schedule.hpp"

namespace vta {

// How frames are taken from a video.
struct FrameConfig {
  double rate = 2.0;
  int64_t size = 224;
  std::string fit = "crop";  // crop or squash
  int64_t clip_length = 1;
  int64_t clip_stride = 1;
  double tokens_per_second = 2.0;
  int64_t resize = 0;              // what crop resizes the shorter side to; 0 for size
  std::string kernel = "bicubic";  // bicubic or bilinear
  std::string encoder;

  void check() const;  // raises OptionError
  int64_t padded_count(int64_t count) const { return (count + clip_length - 1) / clip_length * clip_length; }
  int64_t token_count(int64_t count) const { return (count + clip_stride - 1) / clip_stride; }
};

struct TextConfig {
  int64_t vocabulary = 49408;
  int64_t context = 77;

  void check() const;
};

// Sizes of one bundle's model.
struct ModelConfig {
  double seconds = 0;
  int64_t sample_rate = 16000;
  int64_t hop_length = 160;
  int64_t mel_bins = 64;
  int64_t latent_channels = 8;
  int64_t latent_stride = 4;
  int64_t token_width = 2048;
  bool positions = false;
  std::optional<TextConfig> text;

  void check() const;
  int64_t latent_steps() const;
  int64_t latent_bins() const { return mel_bins / latent_stride; }
  std::vector<int64_t> latent_shape() const { return {1, latent_channels, latent_steps(), latent_bins()}; }
  int64_t frame_count(const FrameConfig& frames) const;
  int64_t token_count(const FrameConfig& frames) const { return frames.token_count(frame_count(frames)); }
};

struct FileRecord {
  std::string file;
  int64_t size = 0;
  std::string sha256;
};

using Size = std::variant<int64_t, std::string>;  // a size that may vary is a name

struct TensorSpec {
  std::string name;
  std::vector<Size> shape;
  std::string dtype;
};

struct GraphRecord {
  FileRecord graph;
  std::vector<FileRecord> weights;
  std::vector<TensorSpec> inputs, outputs;
  std::string precision;
};

struct Manifest {
  ModelConfig model;
  FrameConfig frames;
  NoiseSchedule schedule;
  std::map<std::string, GraphRecord> graphs;
  Sampling sampling;
  std::optional<FileRecord> tokenizer;
  std::string licence;

  std::vector<FileRecord> files() const;  // all, without repeats
};

// Raises BundleError, naming the file and the field.
Manifest read_manifest(const std::string& folder);
Manifest parse_manifest(const std::string& text, const std::string& path);

bool is_file_name(const std::string& name);

}  // namespace vta
