// The noise of a seed, bit for bit that of numpy.random.default_rng(seed).standard_normal(dtype=float32).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vta {

// A 128-bit number, since no compiler's own is standard.
struct Wide {
  uint64_t high = 0, low = 0;
};

class NoiseGenerator {
 public:
  explicit NoiseGenerator(uint64_t seed);

  float next_normal();
  std::vector<float> normals(size_t count);

 private:
  uint64_t next_uint64();
  uint32_t next_uint32();
  float next_uniform();

  Wide state_, increment_;
  bool has_half_ = false;  // the upper half of the last 64 bits is still to be given out
  uint32_t half_ = 0;
};

}  // namespace vta
