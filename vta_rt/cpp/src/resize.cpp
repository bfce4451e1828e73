#include "resize.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace vta {
namespace {

// Frames much larger than the result are resized less exactly and faster; see vta_rt/video/frames.py.
constexpr double MAX_EXACT_SCALE = 3.0, REDUCING_GAP = 4.0;
constexpr int64_t MAX_RESIZED = 32;
constexpr int PRECISION_BITS = 22;  // of a weight, so that 8 bits and a sum of some fit in 32

struct Kernel {
  double support;
  double (*weight)(double);
};

double bilinear(double x) { return std::max(0.0, 1 - std::abs(x)); }

double bicubic(double x) {  // Keys' convolution, a = -1/2
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

Kernel find_kernel(const FrameConfig& config) {
  return config.kernel == "bilinear" ? Kernel{1, bilinear} : Kernel{2, bicubic};
}

struct Box {
  double left, top, right, bottom;
};

// The pixels that one pixel of the result is a sum of, and their weights.
struct Taps {
  int64_t first;
  std::vector<int32_t> weights;
};

// Taps of `count` pixels from `start` on, of the `total` that begin..end of `size` pixels are resized to.
std::vector<Taps> make_taps(const Kernel& kernel, int64_t size, float begin, float end, int64_t total, int64_t start, int64_t count) {
  const double scale = static_cast<double>(end - begin) / static_cast<double>(total), stretch = std::max(scale, 1.0);
  const double support = kernel.support * stretch;
  std::vector<Taps> all;
  for (int64_t index = start; index < start + count; ++index) {
    const double centre = begin + (static_cast<double>(index) + 0.5) * scale;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(centre - support + 0.5));
    const auto last = std::min(size, static_cast<int64_t>(centre + support + 0.5));
    std::vector<double> weights;
    double sum = 0;
    for (int64_t x = first; x < last; ++x) {
      weights.push_back(kernel.weight((static_cast<double>(x) - centre + 0.5) * (1 / stretch)));
      sum += weights.back();
    }
    Taps taps{first, {}};
    for (double weight : weights) {
      if (sum != 0) weight *= 1 / sum;
      taps.weights.push_back(static_cast<int32_t>(weight * (1 << PRECISION_BITS) + (weight < 0 ? -0.5 : 0.5)));
    }
    all.push_back(std::move(taps));
  }
  return all;
}

uint8_t clip(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> PRECISION_BITS, 0, 255)); }

// A weighted sum along one axis; `step` is the distance in bytes between the pixels that are added.
void sum_taps(const Taps& taps, const uint8_t* source, size_t step, uint8_t* target) {
  int32_t red = 1 << (PRECISION_BITS - 1), green = red, blue = red;
  const uint8_t* pixel = source + static_cast<size_t>(taps.first) * step;
  for (const int32_t weight : taps.weights) {
    red += pixel[0] * weight;
    green += pixel[1] * weight;
    blue += pixel[2] * weight;
    pixel += step;
  }
  target[0] = clip(red);
  target[1] = clip(green);
  target[2] = clip(blue);
}

// Where all taps together begin and end.
std::pair<int64_t, int64_t> find_span(const std::vector<Taps>& all) {
  int64_t first = all.front().first, last = first;
  for (const Taps& taps : all) {
    first = std::min(first, taps.first);
    last = std::max(last, taps.first + static_cast<int64_t>(taps.weights.size()));
  }
  return {first, last};
}

// Part of an image, `box`, resized to width x height, of which a square from (left, top) on is made. Rows are resized before
// columns, of images that are more than twice as high as wide columns before rows: the rounding between the two shows.
Image resize(const ImageView& image, const Kernel& kernel, const Box& box, int64_t width, int64_t height, int64_t left, int64_t top,
             int64_t size) {
  auto columns = make_taps(kernel, image.width, static_cast<float>(box.left), static_cast<float>(box.right), width, left, size);
  auto rows = make_taps(kernel, image.height, static_cast<float>(box.top), static_cast<float>(box.bottom), height, top, size);
  const auto keep = [size](std::vector<Taps>& all, int64_t start) {
    for (int64_t index = 0; index < size; ++index) all[static_cast<size_t>(index)] = {start + index, {1 << PRECISION_BITS}};
  };
  if (width == image.width && box.left == 0 && box.right == static_cast<double>(width)) keep(columns, left);
  if (height == image.height && box.top == 0 && box.bottom == static_cast<double>(height)) keep(rows, top);
  Image result(size, size);
  const bool is_columns_first = image.height > 2 * image.width;
  const auto [first, last] = find_span(is_columns_first ? columns : rows);
  if (is_columns_first) {
    Image middle(last - first, size);
    for (int64_t y = 0; y < size; ++y) {
      for (int64_t x = first; x < last; ++x) sum_taps(rows[static_cast<size_t>(y)], image.at(x, 0), image.stride, middle.at(x - first, y));
    }
    for (int64_t x = 0; x < size; ++x) {
      Taps& taps = columns[static_cast<size_t>(x)];
      taps.first -= first;
      for (int64_t y = 0; y < size; ++y) sum_taps(taps, middle.at(0, y), 3, result.at(x, y));
    }
  } else {
    Image middle(size, last - first);
    for (int64_t y = first; y < last; ++y) {
      for (int64_t x = 0; x < size; ++x) sum_taps(columns[static_cast<size_t>(x)], image.at(0, y), 3, middle.at(x, y - first));
    }
    for (int64_t y = 0; y < size; ++y) {
      Taps& taps = rows[static_cast<size_t>(y)];
      taps.first -= first;
      for (int64_t x = 0; x < size; ++x) sum_taps(taps, middle.at(x, 0), static_cast<size_t>(3 * size), result.at(x, y));
    }
  }
  return result;
}

// The mean of every block of x_factor x y_factor pixels of part of an image; blocks at the right and lower edge may be smaller.
Image reduce(const ImageView& image, int64_t x_factor, int64_t y_factor, int64_t left, int64_t top, int64_t right, int64_t bottom) {
  Image result((right - left + x_factor - 1) / x_factor, (bottom - top + y_factor - 1) / y_factor);
  for (int64_t y = 0; y < result.height; ++y) {
    const int64_t y_begin = top + y * y_factor, y_end = std::min(y_begin + y_factor, bottom);
    for (int64_t x = 0; x < result.width; ++x) {
      const int64_t x_begin = left + x * x_factor, x_end = std::min(x_begin + x_factor, right);
      const auto count = static_cast<uint32_t>((x_end - x_begin) * (y_end - y_begin));
      const auto multiplier = static_cast<uint32_t>(4294967296.0F / static_cast<float>(256 * count));  // of 24 bits
      uint32_t sums[3] = {count / 2, count / 2, count / 2};
      for (int64_t row = y_begin; row < y_end; ++row) {
        const uint8_t* pixel = image.at(x_begin, row);
        for (int64_t column = x_begin; column < x_end; ++column, pixel += 3) {
          for (size_t band = 0; band < 3; ++band) sums[band] += pixel[band];
        }
      }
      for (size_t band = 0; band < 3; ++band) result.at(x, y)[band] = static_cast<uint8_t>(sums[band] * multiplier >> 24);
    }
  }
  return result;
}

// As `resize` to a square, but blocks of pixels are averaged first where there are many for each of the result.
Image resize_coarsely(const ImageView& image, const Kernel& kernel, Box box, int64_t size) {
  const auto factor = [&](double length) {
    return std::max<int64_t>(1, static_cast<int64_t>(length / static_cast<double>(size) / REDUCING_GAP));
  };
  const int64_t x_factor = factor(box.right - box.left), y_factor = factor(box.bottom - box.top);
  if (x_factor == 1 && y_factor == 1) return resize(image, kernel, box, size, size, 0, 0, size);
  // With a margin for what the kernel reaches beyond the box.
  const double x_margin = (kernel.support - 0.5) * (box.right - box.left) / static_cast<double>(size);
  const double y_margin = (kernel.support - 0.5) * (box.bottom - box.top) / static_cast<double>(size);
  const auto low = [](double place) { return std::max<int64_t>(0, static_cast<int64_t>(place)); };
  const auto high = [](double place, int64_t limit) { return std::min(limit, static_cast<int64_t>(std::ceil(place))); };
  const int64_t left = low(box.left - x_margin), top = low(box.top - y_margin);
  const int64_t right = high(box.right + x_margin, image.width), bottom = high(box.bottom + y_margin, image.height);
  const Image reduced = reduce(image, x_factor, y_factor, left, top, right, bottom);
  const auto x = [&](double place) { return (place - static_cast<double>(left)) / static_cast<double>(x_factor); };
  const auto y = [&](double place) { return (place - static_cast<double>(top)) / static_cast<double>(y_factor); };
  return resize(reduced.view(), kernel, {x(box.left), y(box.top), x(box.right), y(box.bottom)}, size, size, 0, 0, size);
}

int64_t round_half_even(double value) { return static_cast<int64_t>(std::nearbyint(value)); }

}  // namespace

Image fit_frame(const ImageView& image, const FrameConfig& config, double aspect) {
  const Kernel kernel = find_kernel(config);
  const int64_t size = config.size, shorter = config.resize != 0 ? config.resize : size;
  const auto width = static_cast<double>(image.width), height = static_cast<double>(image.height);
  const Box whole = {0, 0, width, height};
  if (config.fit == "squash") return resize_coarsely(image, kernel, whole, size);
  const double shown = aspect == 1.0 ? width : width * aspect, shortest = std::min(shown, height);
  const auto resized = [&](double side) { return static_cast<int64_t>(static_cast<double>(shorter) * side / shortest); };
  const int64_t new_width = resized(shown), new_height = resized(height);
  const int64_t left = round_half_even(static_cast<double>(new_width - size) / 2);
  const int64_t top = round_half_even(static_cast<double>(new_height - size) / 2);
  if (shortest <= MAX_EXACT_SCALE * static_cast<double>(shorter) && std::max(new_width, new_height) <= MAX_RESIZED * shorter) {
    return resize(image, kernel, whole, new_width, new_height, left, top, size);
  }
  const double x = width / static_cast<double>(new_width), y = height / static_cast<double>(new_height);
  const auto l = static_cast<double>(left), t = static_cast<double>(top), s = static_cast<double>(size);
  return resize_coarsely(image, kernel, {l * x, t * y, (l + s) * x, (t + s) * y}, size);
}

}  // namespace vta
