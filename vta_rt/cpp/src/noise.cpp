#include "noise.hpp"

#include <array>
#include <cmath>

namespace vta {
namespace {

// numpy's SeedSequence: the hash of Melissa O'Neill's seed_seq_fe, on a pool of four words.
class SeedSequence {
 public:
  explicit SeedSequence(uint64_t entropy) {
    const std::array<uint32_t, POOL> words = {static_cast<uint32_t>(entropy), static_cast<uint32_t>(entropy >> 32), 0, 0};
    uint32_t constant = INIT_A;
    for (size_t index = 0; index < POOL; ++index) pool_[index] = hash(words[index], constant);
    for (size_t source = 0; source < POOL; ++source) {
      for (size_t target = 0; target < POOL; ++target) {
        if (source != target) pool_[target] = mix(pool_[target], hash(pool_[source], constant));
      }
    }
  }

  std::array<uint64_t, 4> generate() const {
    std::array<uint64_t, 4> state{};
    uint32_t constant = INIT_B;
    for (size_t index = 0; index < 2 * state.size(); ++index) {
      uint32_t value = pool_[index % POOL] ^ constant;
      constant *= MULT_B;
      value *= constant;
      value ^= value >> 16;
      state[index / 2] |= static_cast<uint64_t>(value) << (index % 2 ? 32 : 0);
    }
    return state;
  }

 private:
  static constexpr size_t POOL = 4;
  static constexpr uint32_t INIT_A = 0x43b0d7e5, MULT_A = 0x931e8875, INIT_B = 0x8b51f9dd, MULT_B = 0x58f38ded;
  static constexpr uint32_t MIX_LEFT = 0xca01f9dd, MIX_RIGHT = 0x4973f715;

  static uint32_t hash(uint32_t value, uint32_t& constant) {
    value ^= constant;
    constant *= MULT_A;
    value *= constant;
    return value ^ (value >> 16);
  }

  static uint32_t mix(uint32_t left, uint32_t right) {
    const uint32_t result = MIX_LEFT * left - MIX_RIGHT * right;
    return result ^ (result >> 16);
  }

  std::array<uint32_t, POOL> pool_{};
};

Wide add(Wide left, Wide right) {
  const uint64_t low = left.low + right.low;
  return {left.high + right.high + (low < left.low ? 1 : 0), low};
}

Wide multiply(Wide left, Wide right) {
  const uint64_t a = left.low >> 32, b = left.low & 0xffffffff, c = right.low >> 32, d = right.low & 0xffffffff;
  const uint64_t middle = a * d + ((b * d) >> 32), carry = (middle & 0xffffffff) + b * c;
  return {a * c + (middle >> 32) + (carry >> 32) + left.high * right.low + left.low * right.high, left.low * right.low};
}

// PCG XSL RR 128/64 (O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms", 2014).
constexpr Wide PCG_MULTIPLIER = {2549297995355413924ULL, 4865540595714422341ULL};

// The ziggurat of Marsaglia and Tsang (2000) with 256 layers of equal area, for 23 random bits a number.
struct Ziggurat {
  static constexpr long double EDGE = 3.6541528853610087963519472518L;  // where the lowest layer's tail begins
  static constexpr long double SCALE = 8388608;                         // 2^23
  std::array<uint32_t, 256> inside{};  // bits below which a number surely lies under the curve
  std::array<float, 256> width{};      // of a layer, for each of the 2^23 steps
  std::array<float, 256> height{};     // of the curve at a layer's edge

  Ziggurat() {
    const auto curve = [](long double x) { return std::exp(-0.5L * x * x); };
    long double x = EDGE, above = x;
    const long double tail = std::sqrt(std::acos(-1.0L) / 2) * std::erfc(x / std::sqrt(2.0L));
    const long double area = x * curve(x) + tail;  // of every layer
    const long double base = area / curve(x);      // of the lowest layer and its tail, as a rectangle
    inside[0] = static_cast<uint32_t>(x / base * SCALE);
    width[0] = static_cast<float>(base / SCALE);
    height[0] = 1.0F;
    width[255] = static_cast<float>(x / SCALE);
    height[255] = static_cast<float>(curve(x));
    for (size_t layer = 254; layer >= 1; --layer) {
      x = std::sqrt(-2 * std::log(area / x + curve(x)));
      inside[layer + 1] = static_cast<uint32_t>(x / above * SCALE);
      above = x;
      width[layer] = static_cast<float>(x / SCALE);
      height[layer] = static_cast<float>(curve(x));
    }
  }
};

const Ziggurat& ziggurat() {
  static const Ziggurat tables;
  return tables;
}

}  // namespace

NoiseGenerator::NoiseGenerator(uint64_t seed) {
  const auto words = SeedSequence(seed).generate();
  increment_ = {words[2] << 1 | words[3] >> 63, words[3] << 1 | 1};
  next_uint64();
  state_ = add(state_, {words[0], words[1]});
  next_uint64();
}

uint64_t NoiseGenerator::next_uint64() {
  state_ = add(multiply(state_, PCG_MULTIPLIER), increment_);
  const uint64_t value = state_.high ^ state_.low, turn = state_.high >> 58;
  return value >> turn | value << (-turn & 63);
}

uint32_t NoiseGenerator::next_uint32() {
  if (has_half_) {
    has_half_ = false;
    return half_;
  }
  const uint64_t value = next_uint64();
  has_half_ = true;
  half_ = static_cast<uint32_t>(value >> 32);
  return static_cast<uint32_t>(value);
}

float NoiseGenerator::next_uniform() { return static_cast<float>(next_uint32() >> 8) * (1.0F / 16777216.0F); }

float NoiseGenerator::next_normal() {
  const Ziggurat& tables = ziggurat();
  constexpr float EDGE = static_cast<float>(Ziggurat::EDGE), INVERSE_EDGE = static_cast<float>(1 / Ziggurat::EDGE);
  for (;;) {
    const uint32_t bits = next_uint32(), step = bits >> 9;
    const size_t layer = bits & 0xff;
    const bool is_negative = (bits >> 8 & 1) != 0;
    const float distance = static_cast<float>(step) * tables.width[layer], x = is_negative ? -distance : distance;
    if (step < tables.inside[layer]) return x;
    if (layer == 0) {
      for (;;) {  // the tail, by Marsaglia's method of 1964
        const float beyond = -INVERSE_EDGE * std::log1p(-next_uniform());
        const float limit = -std::log1p(-next_uniform());
        if (limit + limit > beyond * beyond) return (step >> 8 & 1) != 0 ? -(EDGE + beyond) : EDGE + beyond;
      }
    }
    const float upper = tables.height[layer - 1], lower = tables.height[layer];
    const float y = (upper - lower) * next_uniform() + lower;
    if (static_cast<double>(y) < std::exp(-0.5 * static_cast<double>(x) * static_cast<double>(x))) return x;
  }
}

std::vector<float> NoiseGenerator::normals(size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = next_normal();
  return values;
}

}  // namespace vta
