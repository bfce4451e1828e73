// A bundle.json of any bytes is read or refused with a BundleError.
#include "error.hpp"
#include "manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    vta::parse_manifest(std::string(reinterpret_cast<const char*>(data), size), "bundle.json");
  } catch (const vta::BundleError&) {
  }
  return 0;
}
