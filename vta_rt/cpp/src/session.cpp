#include "session.hpp"

#include <algorithm>
#include <limits>
#include <map>

#include "error.hpp"
#include "platform.hpp"
#include "text.hpp"

namespace vta {
namespace {

constexpr const char* CUDA = "CUDAExecutionProvider";
constexpr const char* CPU = "CPUExecutionProvider";

// Never destroyed: sessions of a program's own static objects may end later than it would.
const Ort::Env& environment() {
  static const Ort::Env& env = *[] {
    // From 1.29 on ONNX Runtime reports its use to its maker unless told not to; nobody has agreed to that here.
    set_default_environment("ORT_DISABLE_TELEMETRY", "1");
    auto* made = new Ort::Env(ORT_LOGGING_LEVEL_FATAL, "vta_rt");
    if (get_environment("ORT_DISABLE_TELEMETRY") != "0") made->DisableTelemetryEvents();
    return made;
  }();
  return env;
}

Ort::MemoryInfo cpu_memory() { return Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault); }

std::string name_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return "float16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return "uint8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return "bool";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return "int64";
    default: return "another type";
  }
}

// A tensor as one text, without the names of axes, which ONNX Runtime may change.
std::string describe(const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape) {
  std::vector<std::string> sizes;
  for (const int64_t size : shape) sizes.push_back(size < 0 ? "any" : show(size));
  return name + " " + dtype + " [" + join(sizes) + "]";
}

std::string describe(const TensorSpec& spec) {
  std::vector<int64_t> shape;
  for (const Size& size : spec.shape) shape.push_back(std::holds_alternative<int64_t>(size) ? std::get<int64_t>(size) : -1);
  return describe(spec.name, spec.dtype, shape);
}

std::string describe(const std::string& name, const Ort::TypeInfo& type) {
  if (type.GetONNXType() != ONNX_TYPE_TENSOR) return name + " which is no tensor";
  const auto info = type.GetTensorTypeAndShapeInfo();
  return describe(name, name_of(info.GetElementType()), info.GetShape());
}

void check_tensors(const std::string& path, const std::string& graph, const char* kind, std::vector<std::string> there,
                   const std::vector<TensorSpec>& specs) {
  std::vector<std::string> expected;
  for (const TensorSpec& spec : specs) expected.push_back(describe(spec));
  const std::string found = join(there);
  std::sort(there.begin(), there.end());
  std::sort(expected.begin(), expected.end());
  if (there != expected) throw BundleError(path + ": is not the graph " + graph + ": its " + kind + " are " + found);
}

std::string read_content(const std::string& path) {
  std::string content;
  const std::string problem = read_file(path, std::numeric_limits<int64_t>::max(), content);
  if (!problem.empty()) throw BundleError(path + ": " + problem);
  return content;
}

Ort::SessionOptions make_options(const Backend& backend) {
  Ort::SessionOptions options;
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
  if (backend.threads > 0) options.SetIntraOpNumThreads(std::min(backend.threads, usable_cores()));
  if (backend.provider == CUDA) {
    // With TF32, fp32 products would keep 10 bits of their inputs' mantissas.
    OrtCUDAProviderOptionsV2* cuda = nullptr;
    Ort::ThrowOnError(Ort::GetApi().CreateCUDAProviderOptions(&cuda));
    const auto release = [](OrtCUDAProviderOptionsV2* own) { Ort::GetApi().ReleaseCUDAProviderOptions(own); };
    const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(release)> owner(cuda, release);
    const char *keys[] = {"use_tf32"}, *values[] = {"0"};
    Ort::ThrowOnError(Ort::GetApi().UpdateCUDAProviderOptions(cuda, keys, values, 1));
    options.AppendExecutionProvider_CUDA_V2(*cuda);
  } else if (!backend.provider.empty()) {
    // Providers other than CUDA's are added by their short names.
    const std::string ending = "ExecutionProvider";
    std::string name = backend.provider;
    if (name.ends_with(ending)) name.resize(name.size() - ending.size());
    options.AppendExecutionProvider(name, std::unordered_map<std::string, std::string>{});
  }
  return options;
}

}  // namespace

int64_t count_values(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

Backend choose_backend(const std::string& name, int threads) {
  if (threads < 0) check_integer("threads", threads, 1);
  const std::vector<std::string> providers = Ort::GetAvailableProviders();
  const auto is_there = [&](const std::string& provider) {
    return std::find(providers.begin(), providers.end(), provider) != providers.end();
  };
  const Backend cpu{"", "ONNX Runtime on the CPU", threads};
  if (name == "cpu" || name == CPU) return cpu;
  if (name == "cuda" || name == "auto") {
    if (!is_there(CUDA)) {
      if (name == "auto") return cpu;
      throw BackendError("the ONNX Runtime here is for CPUs only; to use the GPU, build with its release for CUDA");
    }
    const Backend cuda{CUDA, std::string("ONNX Runtime on the GPU, ") + CUDA, threads};
    if (name == "cuda") return cuda;
    try {
      make_options(cuda);  // fails where CUDA's libraries or a GPU are missing
      return cuda;
    } catch (const Ort::Exception&) {
      return cpu;
    }
  }
  if (is_there(name)) return {name, "ONNX Runtime, " + name, threads};
  std::vector<std::string> known = {"auto", "cuda", "cpu"};
  for (const std::string& provider : providers) {
    if (provider != CPU && provider != CUDA) known.push_back(provider);
  }
  throw OptionError("backend " + show(name) + " is unknown; choose one of " + join(known));
}

Session::Session(const std::string& folder, const std::string& name, const GraphRecord& record, const Backend& backend)
    : record_(record), name_(name) {
  // Read, not mapped: a file that shrinks under the process would end it. And a graph from memory can reach no other file.
  const std::string path = join_path(folder, record.graph.file), graph = read_content(path);
  std::vector<std::basic_string<ORTCHAR_T>> names;
  std::vector<std::string> contents;
  for (const FileRecord& file : record.weights) {
    names.emplace_back(file.file.begin(), file.file.end());
    contents.push_back(read_content(join_path(folder, file.file)));
  }
  std::vector<std::string> inputs, outputs;
  std::string own;
  try {
    Ort::SessionOptions options = make_options(backend);
    if (!names.empty()) {
      std::vector<char*> buffers;
      std::vector<size_t> sizes;
      for (std::string& content : contents) {
        buffers.push_back(content.data());
        sizes.push_back(content.size());
      }
      options.AddExternalInitializersFromFilesInMemory(names, buffers, sizes);
    }
    session_ = Ort::Session(environment(), graph.data(), graph.size(), options);
    Ort::AllocatorWithDefaultOptions allocator;
    own = session_.GetModelMetadata().GetGraphNameAllocated(allocator).get();
    for (size_t index = 0; index < session_.GetInputCount(); ++index) {
      inputs.push_back(describe(session_.GetInputNameAllocated(index, allocator).get(), session_.GetInputTypeInfo(index)));
    }
    for (size_t index = 0; index < session_.GetOutputCount(); ++index) {
      outputs.push_back(describe(session_.GetOutputNameAllocated(index, allocator).get(), session_.GetOutputTypeInfo(index)));
    }
    device_ = backend.provider == CUDA ? Ort::MemoryInfo("Cuda", OrtDeviceAllocator, 0, OrtMemTypeDefault) : cpu_memory();
  } catch (const Ort::Exception& error) {
    throw BundleError(path + ": ONNX Runtime cannot load it (" + one_line(error.what()) + ")");
  }
  if (own != name) throw BundleError(path + ": is not the graph " + name + ", but " + own);
  check_tensors(path, name, "inputs", inputs, record.inputs);
  check_tensors(path, name, "outputs", outputs, record.outputs);
}

int64_t Session::fixed_size(const std::string& input, size_t axis) const {
  for (const TensorSpec& spec : record_.inputs) {
    if (spec.name == input && std::holds_alternative<int64_t>(spec.shape[axis])) return std::get<int64_t>(spec.shape[axis]);
  }
  return 0;
}

bool Session::has_input(const std::string& input) const {
  return std::any_of(record_.inputs.begin(), record_.inputs.end(), [&](const TensorSpec& spec) { return spec.name == input; });
}

template <typename Call>
auto Session::attempt(Call&& call) {
  try {
    return call();
  } catch (const Ort::Exception& error) {
    throw ModelError(name_ + ": ONNX Runtime could not run it (" + one_line(error.what()) + ")");
  }
}

Array Session::run(const Inputs& inputs) {
  std::vector<const char*> names;
  std::vector<OrtValue*> values;
  for (const auto& [name, value] : inputs) {
    names.push_back(name);
    values.push_back(value);
  }
  return attempt([&] {
    const char* output = record_.outputs.front().name.c_str();
    OrtValue* made = nullptr;
    Ort::ThrowOnError(Ort::GetApi().Run(session_, nullptr, names.data(), values.data(), values.size(), &output, 1, &made));
    return as_array(Ort::Value(made));
  });
}

Ort::IoBinding Session::bind() {
  return attempt([&] { return Ort::IoBinding(session_); });
}

void Session::run(Ort::IoBinding& binding) {
  attempt([&] { session_.Run(Ort::RunOptions{nullptr}, binding); });
}

Ort::Value as_value(const std::vector<float>& values, const Shape& shape) {
  return Ort::Value::CreateTensor<float>(cpu_memory(), const_cast<float*>(values.data()), values.size(), shape.data(), shape.size());
}

Ort::Value as_value(const std::vector<uint8_t>& values, const Shape& shape) {
  return Ort::Value::CreateTensor<uint8_t>(cpu_memory(), const_cast<uint8_t*>(values.data()), values.size(), shape.data(), shape.size());
}

Ort::Value as_mask(const std::vector<uint8_t>& values, const Shape& shape) {
  static_assert(sizeof(bool) == 1);
  return Ort::Value::CreateTensor(cpu_memory(), const_cast<uint8_t*>(values.data()), values.size(), shape.data(), shape.size(),
                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL);
}

Array as_array(const Ort::Value& value) {
  Array array;
  array.shape = value.GetTensorTypeAndShapeInfo().GetShape();
  const float* values = value.GetTensorData<float>();
  array.values.assign(values, values + count_values(array.shape));
  return array;
}

}  // namespace vta
