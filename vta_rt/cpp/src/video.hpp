// A video file: opened as one that may come from a stranger, its frames and packets with their times, and its length, as in
// vta_rt/video. Time 0 is the first frame that can be decoded and is meant to be shown.
#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
}

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "platform.hpp"

namespace vta {

// What one file may ask for; no ordinary video comes near these.
struct Limits {
  int64_t pixels = 36'000'000, frame_rate = 100'000, streams = 200, seconds = 48 * 3600, packets = 20'000'000;
  int64_t probe_bytes = 5'000'000, open_seconds = 60, read_seconds = 24 * 3600;

  // Sets what a NAME=VALUE pair names. Raises OptionError.
  void set(const std::string& pair);
};

struct VideoOptions {
  std::optional<int64_t> track;  // which of its video streams, counted from 0; none for the best
  bool strict = false;           // what is a warning otherwise is an error
  Limits limits;
  std::function<void(const std::string&)> warn;  // called with a line for each thing that the user should know
};

template <typename Type, void (*release)(Type**)>
struct Release {
  void operator()(Type* own) const { release(&own); }
};
using PacketPointer = std::unique_ptr<AVPacket, Release<AVPacket, av_packet_free>>;
using FramePointer = std::unique_ptr<AVFrame, Release<AVFrame, av_frame_free>>;
using DecoderPointer = std::unique_ptr<AVCodecContext, Release<AVCodecContext, avcodec_free_context>>;

PacketPointer make_packet();
FramePointer make_frame();
std::string describe_error(int code);

// How a stored frame is turned for display: axes swapped, then mirrored.
struct Orientation {
  bool is_transposed = false, mirrors_x = false, mirrors_y = false;
};

// What the first frame that is shown says of all.
struct FirstFrame {
  int64_t pts = AV_NOPTS_VALUE;
  int64_t index = -1;  // of its packet among the stream's, in the order of decoding
  Orientation orientation;
  double aspect = 1.0;  // width over height of a pixel, once upright
};

// A packet without its data. Times are in units of the stream's time base, AV_NOPTS_VALUE if unknown.
struct Row {
  int64_t pts, dts, duration;
  bool is_keyframe, is_discard;
};

// Takes jumps out of the timestamps of packets in the order of decoding, as FFmpeg's own copy does.
class Clock {
 public:
  Clock(AVRational time_base, int64_t interval, bool is_discontinuous);
  int64_t advance(int64_t dts, int64_t pts, int64_t duration);  // the number to add to the next packet's timestamps

 private:
  bool is_discontinuous_;
  double max_jump_, max_step_back_;
  int64_t interval_, offset_ = 0, last_ = AV_NOPTS_VALUE, step_;
};

// Times of items that never go backwards, in units of the stream's time base.
class Timeline {
 public:
  explicit Timeline(long double interval) : interval_(interval), step_(interval) {}
  long double add(int64_t pts, int64_t dts, int64_t duration);
  bool is_empty() const { return !begun_; }
  long double end() const { return end_; }

 private:
  long double interval_, step_, start_ = 0, end_ = 0;
  bool begun_ = false, is_stamped_ = false;
};

class Video {
 public:
  // Raises VideoError.
  explicit Video(const std::string& path, VideoOptions options = {});
  ~Video();

  const std::string& path() const { return path_; }
  const AVStream& stream() const;
  const AVFormatContext& container() const;
  AVRational time_base() const { return stream().time_base; }
  std::string codec_name() const;

  const FirstFrame& first();    // decoded if none was yet
  double duration();            // seconds, from the start of the first frame to the end of the last
  void check_complete(double end);  // warns if frames end at `end` on the stream's clock, long before the header says so

  // Calls `take` with every frame that is shown, in order, and its time in units after the first one's; until it returns false.
  // Returns where the frames end, likewise, if all were read.
  std::optional<long double> read_frames(const std::function<bool(const AVFrame&, long double)>& take);
  // Calls `take` with every packet of the stream from the beginning, with its index; until it returns false.
  void read_packets(const std::function<bool(AVPacket&, int64_t)>& take);
  std::vector<Row> read_rows();

  void note(const std::string& text);  // say something once
  void warn(const std::string& text);  // likewise; raises VideoError if the options are strict

 private:
  struct Source;

  void open();
  void rewind();
  void find_track();
  void check_limits() const;
  bool find_order();
  bool next_packet(AVPacket& packet);
  DecoderPointer open_decoder() const;
  Orientation find_orientation(const AVFrame& frame) const;
  std::optional<double> find_stated_end() const;
  std::optional<double> find_end();
  [[noreturn]] void fail(const std::string& text) const;
  double seconds(long double units) const;
  long double interval() const;

  std::string path_;
  VideoOptions options_;
  InputFile file_;
  std::unique_ptr<Source> source_;
  int track_ = -1;
  bool trusts_pts_ = true;  // otherwise presentation times are those of decoding, and taken for missing
  std::optional<FirstFrame> first_;
  std::optional<double> duration_;
  std::vector<std::string> notes_;
};

}  // namespace vta
