// One loaded graph on ONNX Runtime.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "manifest.hpp"

namespace vta {

using Shape = std::vector<int64_t>;

int64_t count_values(const Shape& shape);

struct Array {
  Shape shape;
  std::vector<float> values;

  Array() = default;
  explicit Array(Shape shape_) : shape(std::move(shape_)), values(static_cast<size_t>(count_values(shape))) {}
};

// A way to run graphs: a provider of ONNX Runtime and its options.
struct Backend {
  std::string provider;  // as ONNX Runtime names it; empty for the CPU's
  std::string title;     // for people
  int threads = 0;       // 0 for all cores
};

// The backend of that name, or for auto the fastest that this ONNX Runtime has. Raises OptionError, BackendError.
Backend choose_backend(const std::string& name, int threads);

using Inputs = std::vector<std::pair<const char*, Ort::Value>>;

// Safe to use from several threads at once.
class Session {
 public:
  // Raises BundleError if the file is not the graph that the manifest describes.
  Session(const std::string& folder, const std::string& name, const GraphRecord& record, const Backend& backend);

  // The size of one axis of an input where the graph fixes it, else 0.
  int64_t fixed_size(const std::string& input, size_t axis) const;
  bool has_input(const std::string& input) const;

  // The graph's first output. Raises ModelError.
  Array run(const Inputs& inputs);

  // For graphs that are run in a row with their outputs as inputs: these stay where the provider has them.
  Ort::IoBinding bind();
  void run(Ort::IoBinding& binding);
  const Ort::MemoryInfo& device() const { return device_; }

 private:
  template <typename Call>
  auto attempt(Call&& call);

  const GraphRecord& record_;
  std::string name_;
  Ort::MemoryInfo device_{nullptr};
  Ort::Session session_{nullptr};
};

// Values that lie elsewhere, and must outlast it, as an input.
Ort::Value as_value(const std::vector<float>& values, const Shape& shape);
Ort::Value as_value(const std::vector<uint8_t>& values, const Shape& shape);
Ort::Value as_mask(const std::vector<uint8_t>& values, const Shape& shape);
Array as_array(const Ort::Value& value);

}  // namespace vta
