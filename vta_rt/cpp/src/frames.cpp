#include "frames.hpp"

extern "C" {
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <algorithm>
#include <cmath>

#include "error.hpp"
#include "resize.hpp"

namespace vta {
namespace {

constexpr double REFERENCE_WHITE = 203.0;               // cd/m2 of diffuse white (ITU-R BT.2408, table 1)
constexpr float HLG_PEAK = 1000.0F, HLG_GAMMA = 1.2F;   // of the reference display (ITU-R BT.2100, table 5)
constexpr float SDR_GAMMA = 2.4F;                       // of a reference display (ITU-R BT.1886)
constexpr double MAX_SIDE_SCALE = 2;                    // frames of high dynamic range are made smaller than this first
constexpr double NANOSECONDS = 1e9;

class Converter {
 public:
  Converter() = default;
  Converter(const Converter&) = delete;
  Converter& operator=(const Converter&) = delete;
  ~Converter() { sws_freeContext(context_); }

  // Pixels of the frame in another format, rows without gaps.
  template <typename Value>
  std::vector<Value> convert(const AVFrame& frame, int width, int height, AVPixelFormat format, int flags) {
    const auto source = static_cast<AVPixelFormat>(frame.format);
    context_ = sws_getCachedContext(context_, frame.width, frame.height, source, width, height, format, flags, nullptr, nullptr, nullptr);
    if (context_ == nullptr) throw VideoError("its pixel format cannot be converted");
    const bool is_full = frame.color_range == AVCOL_RANGE_JPEG;
    sws_setColorspaceDetails(context_, sws_getCoefficients(frame.colorspace), is_full ? 1 : 0, sws_getCoefficients(SWS_CS_DEFAULT), 1, 0,
                             1 << 16, 1 << 16);
    const size_t values = 3 * static_cast<size_t>(width);
    constexpr size_t MARGIN = 64;  // swscale's vector code may write a little beyond a row
    std::vector<Value> pixels(values * static_cast<size_t>(height) + MARGIN);
    uint8_t* planes[4] = {reinterpret_cast<uint8_t*>(pixels.data()), nullptr, nullptr, nullptr};
    const int strides[4] = {static_cast<int>(values * sizeof(Value)), 0, 0, 0};
    const int done = sws_scale(context_, frame.data, frame.linesize, 0, frame.height, planes, strides);
    if (done <= 0) throw VideoError("its pixel format cannot be converted");
    pixels.resize(values * static_cast<size_t>(height));
    return pixels;
  }

 private:
  SwsContext* context_ = nullptr;
};

float read_pq(float value) {  // SMPTE ST 2084, equation 4.1
  constexpr float m1 = 2610.0F / 16384, m2 = 2523.0F / 32, c1 = 3424.0F / 4096, c2 = 2413.0F / 128, c3 = 2392.0F / 128;
  const float power = std::pow(value, 1 / m2);
  return 10'000 * std::pow(std::max(power - c1, 0.0F) / (c2 - c3 * power), 1 / m1);
}

float read_hlg(float value) {  // scene light (ITU-R BT.2100, table 5)
  constexpr float a = 0.17883277F, b = 0.28466892F, c = 0.55991073F;
  return value <= 0.5F ? value * value / 3 : (std::exp((value - c) / a) + b) / 12;
}

// A PQ or HLG frame in BT.709: diffuse white becomes white, all below keeps its luminance on a reference display.
Image map_tones(const AVFrame& frame, int64_t side, Converter& converter) {
  const double scale = std::min(1.0, MAX_SIDE_SCALE * static_cast<double>(side) / std::min(frame.width, frame.height));
  const auto scaled = [&](int length) { return std::max(1, static_cast<int>(std::nearbyint(length * scale))); };
  const int width = scaled(frame.width), height = scaled(frame.height);
  const auto values = converter.convert<uint16_t>(frame, width, height, AV_PIX_FMT_RGB48LE, scale < 1 ? SWS_AREA : SWS_BICUBIC);
  Image image(width, height);
  for (size_t index = 0; index < values.size(); index += 3) {
    float light[3];
    for (size_t band = 0; band < 3; ++band) {
      const float value = static_cast<float>(values[index + band]) / 65535;
      light[band] = frame.color_trc == AVCOL_TRC_SMPTE2084 ? read_pq(value) : read_hlg(value);
    }
    if (frame.color_trc != AVCOL_TRC_SMPTE2084) {
      const float luminance = std::max(0.2627F * light[0] + 0.6780F * light[1] + 0.0593F * light[2], 0.0F);
      for (float& own : light) own *= HLG_PEAK * std::pow(luminance, HLG_GAMMA - 1);
    }
    for (float& own : light) own /= static_cast<float>(REFERENCE_WHITE);
    float shown[3] = {light[0], light[1], light[2]};
    if (frame.color_primaries == AVCOL_PRI_BT2020) {  // ITU-R BT.2087, M2
      shown[0] = 1.660491F * light[0] - 0.587641F * light[1] - 0.072850F * light[2];
      shown[1] = -0.124550F * light[0] + 1.132900F * light[1] - 0.008349F * light[2];
      shown[2] = -0.018151F * light[0] - 0.100579F * light[1] + 1.118730F * light[2];
    }
    for (size_t band = 0; band < 3; ++band) {
      image.pixels[index + band] = static_cast<uint8_t>(std::nearbyint(255 * std::pow(std::clamp(shown[band], 0.0F, 1.0F), 1 / SDR_GAMMA)));
    }
  }
  return image;
}

Image turn(Image image, const Orientation& orientation) {
  if (!orientation.is_transposed && !orientation.mirrors_x && !orientation.mirrors_y) return image;
  Image result(orientation.is_transposed ? image.height : image.width, orientation.is_transposed ? image.width : image.height);
  for (int64_t y = 0; y < image.height; ++y) {
    for (int64_t x = 0; x < image.width; ++x) {
      const int64_t across = orientation.is_transposed ? y : x, down = orientation.is_transposed ? x : y;
      uint8_t* target = result.at(orientation.mirrors_x ? result.width - 1 - across : across, orientation.mirrors_y ? result.height - 1 - down : down);
      std::copy_n(image.at(x, y), 3, target);
    }
  }
  return result;
}

}  // namespace

Clip read_clip(Video& video, const Manifest& manifest) {
  const FrameConfig& config = manifest.frames;
  FrameTimes times(config.rate, manifest.model.seconds);
  Clip clip;
  Converter converter;
  const FramePointer shown = make_frame();  // the frame on screen, until another one appears
  bool is_shown = false;
  const AVRational base = video.time_base();
  const auto take_shown = [&](int64_t count) {
    if (count == 0) return;
    const FirstFrame& first = video.first();
    const bool is_bright = shown->color_trc == AVCOL_TRC_SMPTE2084 || shown->color_trc == AVCOL_TRC_ARIB_STD_B67;
    Image image;
    try {
      if (is_bright) {
        image = map_tones(*shown, std::max(config.size, config.resize), converter);
      } else {
        image.width = shown->width;
        image.height = shown->height;
        image.pixels = converter.convert<uint8_t>(*shown, shown->width, shown->height, AV_PIX_FMT_RGB24, SWS_BILINEAR);
      }
    } catch (const VideoError& error) {
      throw VideoError(video.path() + ": " + error.what());
    }
    image = turn(std::move(image), first.orientation);
    const Image fitted = fit_frame(image.view(), config, first.aspect);
    for (int64_t copy = 0; copy < count; ++copy) clip.frames.insert(clip.frames.end(), fitted.pixels.begin(), fitted.pixels.end());
    clip.count += count;
  };
  const auto end = video.read_frames([&](const AVFrame& frame, long double time) {
    if (is_shown) take_shown(times.count_until(time * base.num, base.den));
    is_shown = true;
    av_frame_unref(shown.get());
    if (av_frame_ref(shown.get(), &frame) < 0) throw std::bad_alloc();
    return !times.is_done();
  });
  if (!is_shown) video.first();  // says what is wrong
  clip.duration = video.duration();
  if (end) take_shown(times.count_until(std::nearbyint(clip.duration * NANOSECONDS), static_cast<int64_t>(NANOSECONDS)));
  return clip;
}

}  // namespace vta
