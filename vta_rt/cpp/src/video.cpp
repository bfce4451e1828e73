#include "video.hpp"

extern "C" {
#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
}

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "error.hpp"
#include "text.hpp"

namespace vta {
namespace {

using Seconds = std::chrono::steady_clock;

// FFmpeg's demuxers that read one file from its own bytes alone; see vta_rt/video/opening.py.
constexpr const char* DEMUXERS =
    "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,mxf,gif,apng,dv,gxf,nut,rm,wtv,ivf,swf,nsv,nuv,pva,ty,bink,smk,flic,yuv4mpegpipe,lxf,"
    "mlv,h264,hevc,vvc,av1,obu,evc,m4v,mpegvideo,mjpeg,h261,h263,vc1,dirac,cavsvideo,avs2,avs3,dnxhd,smjpeg,wav,w64,aiff,caf,au,mp3,"
    "flac,aac,ac3,eac3,amr,ape,wv,tta";
constexpr const char *MATROSKA = "matroska,webm", *MOV = "mov,mp4,m4a,3gp,3g2,mj2";
constexpr int BUFFER_BYTES = 1 << 16;
constexpr double MAX_JUMP_SECONDS = 10, MAX_STEP_BACK_SECONDS = 0.1, MAX_MISSING_SECONDS = 1;
constexpr int SPARE_THREADS = 2, MAX_THREADS = 16;
constexpr int64_t MAX_THREADED_PIXELS = 1 << 28;
constexpr size_t MAX_COMPARED_PACKETS = 16;
constexpr int64_t MAX_REPEATS = 4, MAX_REPEATED_BYTES = 1 << 20;  // how often a file may show what it holds, by an edit list
constexpr size_t MAX_PACKETS_TO_KEYFRAME = 600;
constexpr int64_t MAX_BYTES_TO_KEYFRAME = 64 << 20;
constexpr int PROBE_PACKETS = 256;  // read at most to see which of several video streams moves
constexpr double MAX_ASPECT = 20;   // of a pixel; what is further from square is taken for damage
constexpr int STILL = AV_DISPOSITION_ATTACHED_PIC | AV_DISPOSITION_TIMED_THUMBNAILS | AV_DISPOSITION_STILL_IMAGE;

// FFmpeg's decoders that make frames of packets that refer to a frame that is not there.
constexpr const char* GREY_DECODERS[] = {"mpeg4", "msmpeg4", "msmpeg4v1", "msmpeg4v2", "wmv1", "wmv2",
                                         "h263",  "flv",     "vp8",       "vp6",       "vp6f", "theora"};

double to_double(AVRational value) { return static_cast<double>(value.num) / static_cast<double>(value.den); }

bool is_named(const AVFormatContext& container, const char* name) { return std::strcmp(container.iformat->name, name) == 0; }

void set_index(AVCodecContext& decoder, AVPacket& packet, int64_t index) {
#if LIBAVCODEC_VERSION_MAJOR >= 60
  static_cast<void>(decoder);
  packet.opaque = reinterpret_cast<void*>(static_cast<intptr_t>(index + 1));
#else
  static_cast<void>(packet);
  decoder.reordered_opaque = index + 1;
#endif
}

int64_t get_index(const AVFrame& frame) {
#if LIBAVCODEC_VERSION_MAJOR >= 60
  return reinterpret_cast<intptr_t>(frame.opaque) - 1;
#else
  return frame.reordered_opaque - 1;
#endif
}

AVRational frame_rate_of(const AVFormatContext& container, const AVStream& stream) {
  if (stream.avg_frame_rate.num > 0 && stream.avg_frame_rate.den > 0) return stream.avg_frame_rate;
  const AVRational guessed = av_guess_frame_rate(const_cast<AVFormatContext*>(&container), const_cast<AVStream*>(&stream), nullptr);
  return guessed.num > 0 && guessed.den > 0 ? guessed : AVRational{25, 1};
}

}  // namespace

PacketPointer make_packet() {
  PacketPointer packet(av_packet_alloc());
  if (!packet) throw std::bad_alloc();
  return packet;
}

FramePointer make_frame() {
  FramePointer frame(av_frame_alloc());
  if (!frame) throw std::bad_alloc();
  return frame;
}

std::string describe_error(int code) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  av_strerror(code, text, sizeof text);
  return text;
}

void Limits::set(const std::string& pair) {
  const std::pair<const char*, int64_t*> all[] = {{"pixels", &pixels},           {"frame_rate", &frame_rate},
                                                  {"streams", &streams},         {"seconds", &seconds},
                                                  {"packets", &packets},         {"probe_bytes", &probe_bytes},
                                                  {"open_seconds", &open_seconds}, {"read_seconds", &read_seconds}};
  const size_t mark = pair.find('=');
  const std::string name = pair.substr(0, mark), text = mark == std::string::npos ? "" : pair.substr(mark + 1);
  std::vector<std::string> names;
  for (const auto& [own, limit] : all) {
    names.emplace_back(own);
    if (name != own) continue;
    constexpr int64_t MAX_LIMIT = (int64_t{1} << 31) - 1;
    if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos) {
      throw OptionError("limit " + name + " is " + show(std::string_view(text)) + ", a positive integer is needed");
    }
    int64_t value = 0;
    if (!parse_number(std::string_view(text).substr(0, 18), value) || value < 1 || value > MAX_LIMIT) {
      throw OptionError("limit " + name + " is " + text.substr(0, 20) + ", an integer from 1 to " + show(MAX_LIMIT) + " is needed");
    }
    *limit = value;
    return;
  }
  throw OptionError("limit " + show(std::string_view(pair)) + " is unknown; NAME=VALUE with one of " + join(names) + " is needed");
}

// An opened container that reads the file itself: FFmpeg is given no way to any other, and no name to guess a format from.
struct Video::Source {
  explicit Source(const InputFile& own) : file(own) {
    auto* buffer = static_cast<unsigned char*>(av_malloc(BUFFER_BYTES));
    io = buffer == nullptr ? nullptr : avio_alloc_context(buffer, BUFFER_BYTES, 0, this, &Source::read, nullptr, &Source::seek);
    container = avformat_alloc_context();
    if (io == nullptr || container == nullptr) throw std::bad_alloc();
    container->pb = io;
    container->interrupt_callback = {[](void* self) { return static_cast<Source*>(self)->is_late() ? 1 : 0; }, this};
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  ~Source() {
    avformat_close_input(&container);
    if (io != nullptr) av_freep(&io->buffer);
    avio_context_free(&io);
  }

  static int read(void* self, uint8_t* buffer, int count) {
    auto& own = *static_cast<Source*>(self);
    const int64_t done = own.file.read(buffer, count, own.position);
    if (done < 0) return AVERROR(EIO);
    own.position += done;
    return done == 0 ? AVERROR_EOF : static_cast<int>(done);
  }

  static int64_t seek(void* self, int64_t offset, int whence) {
    auto& own = *static_cast<Source*>(self);
    if ((whence & AVSEEK_SIZE) != 0) return own.file.size();
    const int64_t base = (whence & 3) == SEEK_CUR ? own.position : (whence & 3) == SEEK_END ? own.file.size() : 0;
    if (offset > 0 && base > INT64_MAX - offset) return AVERROR(EINVAL);
    if (base + offset < 0) return AVERROR(EINVAL);
    return own.position = base + offset;
  }

  void allow(int64_t count) { deadline = Seconds::now() + std::chrono::seconds(count); }
  bool is_late() const { return Seconds::now() > deadline; }

  const InputFile& file;
  int64_t position = 0;
  bool has_moved = false;  // from the beginning
  Seconds::time_point deadline = Seconds::time_point::max();
  AVIOContext* io = nullptr;
  AVFormatContext* container = nullptr;
};

Clock::Clock(AVRational time_base, int64_t interval, bool is_discontinuous)
    : is_discontinuous_(is_discontinuous),
      max_jump_(MAX_JUMP_SECONDS / to_double(time_base)),
      max_step_back_(MAX_STEP_BACK_SECONDS / to_double(time_base)),
      interval_(interval),
      step_(interval) {}

int64_t Clock::advance(int64_t dts, int64_t pts, int64_t duration) {
  if (dts == AV_NOPTS_VALUE) return offset_;
  int64_t time = dts + offset_;
  if (last_ != AV_NOPTS_VALUE) {
    const auto step = static_cast<double>(time - last_);
    const bool steps_back = step < -max_step_back_ &&
                            (pts == AV_NOPTS_VALUE || static_cast<double>(pts + offset_) < static_cast<double>(last_) - max_step_back_);
    if (steps_back || (is_discontinuous_ && step > max_jump_)) {
      offset_ += last_ + step_ - time;
      time = dts + offset_;
    }
  }
  last_ = time;
  step_ = duration != 0 ? duration : interval_;
  return offset_;
}

long double Timeline::add(int64_t pts, int64_t dts, int64_t duration) {
  is_stamped_ = is_stamped_ || pts != AV_NOPTS_VALUE;
  const int64_t stamp = is_stamped_ ? pts : dts;
  const long double time = stamp != AV_NOPTS_VALUE ? static_cast<long double>(stamp) : end_;
  if (begun_ && time > start_ && !is_stamped_) step_ = time - start_;
  start_ = begun_ ? std::max(start_, time) : time;
  begun_ = true;
  const long double length = duration > 0 ? static_cast<long double>(duration) : interval_;
  end_ = start_ + (is_stamped_ ? length : std::max(length, step_));
  return start_;
}

Video::Video(const std::string& path, VideoOptions options) : path_(path), options_(std::move(options)) {
  if (is_folder(path)) fail("is a folder, a video file is needed");
  if (path.find('\0') == std::string::npos && !exists(path)) fail("no such file");
  const std::string problem = file_.open(path);
  if (!problem.empty()) fail(problem == "it is not an ordinary file" ? "is not an ordinary file" : "cannot be read (" + problem + ")");
  if (file_.size() == 0) fail("is empty (0 bytes)");
  open();
  find_track();
  check_limits();
  trusts_pts_ = find_order();
}

Video::~Video() = default;

void Video::fail(const std::string& text) const { throw VideoError(path_ + ": " + text); }

void Video::note(const std::string& text) {
  if (std::find(notes_.begin(), notes_.end(), text) != notes_.end()) return;
  notes_.push_back(text);
  if (options_.warn) options_.warn(path_ + ": warning: " + text);
}

void Video::warn(const std::string& text) {
  if (options_.strict) fail(text);
  note(text);
}

const AVFormatContext& Video::container() const { return *source_->container; }
const AVStream& Video::stream() const { return *source_->container->streams[track_]; }
std::string Video::codec_name() const { return avcodec_get_name(stream().codecpar->codec_id); }
double Video::seconds(long double units) const { return static_cast<double>(units * time_base().num / time_base().den); }

long double Video::interval() const {
  const AVRational rate = frame_rate_of(container(), stream()), base = time_base();
  return static_cast<long double>(rate.den) * base.den / (static_cast<long double>(rate.num) * base.num);
}

// Back to the beginning of the file.
void Video::rewind() {
  if (source_->has_moved) open();
}

void Video::open() {
  const Limits& limits = options_.limits;
  source_ = std::make_unique<Source>(file_);
  source_->allow(limits.open_seconds);
  AVDictionary* settings = nullptr;
  av_dict_set(&settings, "format_whitelist", DEMUXERS, 0);
  av_dict_set(&settings, "protocol_whitelist", "fd", 0);
  av_dict_set_int(&settings, "probesize", std::max<int64_t>(32, limits.probe_bytes), 0);
  int code = avformat_open_input(&source_->container, "", nullptr, &settings);
  av_dict_free(&settings);
  if (code >= 0) {
    AVFormatContext& own = *source_->container;
    std::vector<AVDictionary*> decoders(own.nb_streams, nullptr);
    for (AVDictionary*& each : decoders) av_dict_set_int(&each, "max_pixels", limits.pixels, 0);
    code = avformat_find_stream_info(&own, decoders.empty() ? nullptr : decoders.data());
    for (AVDictionary*& each : decoders) av_dict_free(&each);
  }
  if (code == AVERROR(EINVAL)) {
    fail("is not of a kind that is read; a self-contained video file is needed, no playlist, script, image or text");
  }
  if (code == AVERROR(ENOMEM)) fail("asks for more memory than any video needs, or for more tracks");
  if (code == AVERROR_EXIT) fail("cannot be opened in " + show(limits.open_seconds) + " s, the limit open_seconds");
  if (code == AVERROR_INVALIDDATA) {
    char head[8] = {};
    file_.read(head, sizeof head, 0);
    fail(std::memcmp(head + 4, "ftyp", 4) == 0
             ? "is truncated or damaged: it begins as an MP4 does, but its index (moov) is missing or unreadable"
             : "is not a video that FFmpeg can read");
  }
  if (code < 0) fail("cannot be read (" + describe_error(code) + ")");
  source_->allow(limits.read_seconds);
  const AVFormatContext& own = container();
  if (own.nb_streams > limits.streams) {
    fail("has " + show(int64_t{own.nb_streams}) + " streams, the limit streams is " + show(limits.streams));
  }
  if (own.duration != AV_NOPTS_VALUE && own.duration / AV_TIME_BASE > limits.seconds) {
    fail("is " + fixed(static_cast<double>(own.duration) / AV_TIME_BASE, 0) + " s long, the limit seconds is " + show(limits.seconds));
  }
}

// Without a choice of the user's: moving frames before a still or a cover, then the default one, then the largest.
void Video::find_track() {
  std::vector<int> videos, candidates;
  bool has_sound = false;
  for (unsigned index = 0; index < container().nb_streams; ++index) {
    const AVStream& own = *container().streams[index];
    has_sound = has_sound || own.codecpar->codec_type == AVMEDIA_TYPE_AUDIO;
    if (own.codecpar->codec_type != AVMEDIA_TYPE_VIDEO) continue;
    videos.push_back(static_cast<int>(index));
    if ((own.disposition & AV_DISPOSITION_ATTACHED_PIC) == 0) candidates.push_back(static_cast<int>(index));
  }
  if (videos.empty() || (!options_.track && candidates.empty())) fail(std::string("has no video stream") + (has_sound ? ", only sound" : ""));
  if (options_.track) {
    const int64_t track = *options_.track, count = static_cast<int64_t>(videos.size());
    if (track >= count) {
      fail("has " + show(count) + " video streams, 0 to " + show(count - 1) + ", and no track " + show(track));
    }
    track_ = videos[static_cast<size_t>(track)];
  } else {
    std::vector<int64_t> counts(container().nb_streams, candidates.size() > 1 ? 0 : 2);
    if (candidates.size() > 1) {
      const PacketPointer packet = make_packet();
      source_->has_moved = true;
      for (int number = 0; number <= PROBE_PACKETS && av_read_frame(source_->container, packet.get()) >= 0; ++number) {
        if (static_cast<size_t>(packet->stream_index) < counts.size() && packet->size > 0) ++counts[static_cast<size_t>(packet->stream_index)];
        av_packet_unref(packet.get());
      }
    }
    const auto rank = [&](int index) {
      const AVStream& own = *container().streams[index];
      const bool moves = (own.disposition & STILL) == 0 && counts[static_cast<size_t>(index)] > 1;
      return std::tuple(avcodec_find_decoder(own.codecpar->codec_id) != nullptr, moves, (own.disposition & AV_DISPOSITION_DEFAULT) != 0,
                        int64_t{own.codecpar->width} * own.codecpar->height, -index);
    };
    track_ = *std::max_element(candidates.begin(), candidates.end(), [&](int left, int right) { return rank(left) < rank(right); });
    if (candidates.size() > 1) {
      const auto place = std::find(videos.begin(), videos.end(), track_) - videos.begin();
      note("has " + show(static_cast<int64_t>(candidates.size())) + " video streams; track " + show(int64_t{place}) +
           " is used, --video-track chooses another");
    }
  }
  if (avcodec_find_decoder(stream().codecpar->codec_id) == nullptr) fail("its video codec is one that this FFmpeg cannot decode");
}

void Video::check_limits() const {
  const Limits& limits = options_.limits;
  const AVCodecParameters& codec = *stream().codecpar;
  if (int64_t{codec.width} * codec.height > limits.pixels) {
    fail("its frames are " + show(int64_t{codec.width}) + " x " + show(int64_t{codec.height}) + " pixels, the limit pixels is " +
         show(limits.pixels));
  }
  const AVRational rate = stream().avg_frame_rate;
  if (rate.den > 0 && to_double(rate) > static_cast<double>(limits.frame_rate)) {
    fail("has " + fixed(to_double(rate), 0) + " frames a second, the limit frame_rate is " + show(limits.frame_rate));
  }
}

DecoderPointer Video::open_decoder() const {
  const AVCodec* codec = avcodec_find_decoder(stream().codecpar->codec_id);
  DecoderPointer decoder(avcodec_alloc_context3(codec));
  if (!decoder) throw std::bad_alloc();
  int code = avcodec_parameters_to_context(decoder.get(), stream().codecpar);
  decoder->pkt_timebase = time_base();
  decoder->max_pixels = options_.limits.pixels;
  decoder->thread_type = FF_THREAD_FRAME | FF_THREAD_SLICE;
  const int64_t pixels = std::max<int64_t>(1, int64_t{decoder->width} * decoder->height);
  decoder->thread_count = static_cast<int>(std::clamp<int64_t>(MAX_THREADED_PIXELS / pixels, 1, std::min(usable_cores() + SPARE_THREADS, MAX_THREADS)));
#if LIBAVCODEC_VERSION_MAJOR >= 60
  decoder->flags |= AV_CODEC_FLAG_COPY_OPAQUE;
#endif
  if (code >= 0) code = avcodec_open2(decoder.get(), codec, nullptr);
  if (code < 0) fail("cannot be read (" + describe_error(code) + ")");
  return decoder;
}

bool Video::next_packet(AVPacket& packet) {
  av_packet_unref(&packet);
  source_->has_moved = true;
  for (;;) {
    const int code = av_read_frame(source_->container, &packet);
    if (source_->is_late()) {
      fail("takes more than " + show(options_.limits.read_seconds) + " s to read, the limit read_seconds");
    }
    if (code == AVERROR_EOF || code == AVERROR_INVALIDDATA || code == AVERROR(EPERM)) return false;
    if (code < 0) fail("cannot be read (" + describe_error(code) + ")");
    if (packet.stream_index == track_ && packet.size > 0) return true;
    av_packet_unref(&packet);
  }
}

// Whether presentation times are in the order in which the decoder shows frames: programs that know only decoding times write
// those as presentation times.
bool Video::find_order() {
  const DecoderPointer decoder = open_decoder();
  if (decoder->has_b_frames == 0) return true;
  std::vector<PacketPointer> packets;
  int64_t latest = AV_NOPTS_VALUE;
  bool is_reordered = false;
  while (packets.size() < MAX_COMPARED_PACKETS && !is_reordered) {
    PacketPointer packet = make_packet();
    if (!next_packet(*packet)) break;
    if (packet->pts != AV_NOPTS_VALUE) {
      is_reordered = latest != AV_NOPTS_VALUE && packet->pts < latest;
      latest = packet->pts;
    }
    packets.push_back(std::move(packet));
  }
  if (is_reordered || latest == AV_NOPTS_VALUE) return true;
  int64_t previous = AV_NOPTS_VALUE;
  const FramePointer frame = make_frame();
  for (const PacketPointer& packet : packets) {
    if (avcodec_send_packet(decoder.get(), packet.get()) < 0) continue;
    while (avcodec_receive_frame(decoder.get(), frame.get()) >= 0) {
      if (previous != AV_NOPTS_VALUE && frame->pts != AV_NOPTS_VALUE && frame->pts < previous) return false;
      previous = frame->pts;
    }
  }
  return true;
}

void Video::read_packets(const std::function<bool(AVPacket&, int64_t)>& take) {
  rewind();
  const AVFormatContext& own = container();
  const bool is_indexed = is_named(own, MOV);  // by a table of all times, whose jumps are edits
  Clock clock(time_base(), std::max<int64_t>(1, std::llround(interval())), (own.iformat->flags & AVFMT_TS_DISCONT) != 0);
  const PacketPointer packet = make_packet();
  int64_t size = 0;
  for (int64_t index = 0; next_packet(*packet); ++index) {
    size += packet->size;
    if (size > MAX_REPEATS * file_.size() + MAX_REPEATED_BYTES) {
      fail("shows its frames again and again; at most " + show(MAX_REPEATS) + " times are allowed");
    }
    if (index >= options_.limits.packets) {
      fail("has more frames than " + show(options_.limits.packets) + ", the limit packets");
    }
    if (!trusts_pts_) packet->pts = AV_NOPTS_VALUE;
    const int64_t offset = is_indexed ? 0 : clock.advance(packet->dts, packet->pts, packet->duration);
    if (packet->pts != AV_NOPTS_VALUE) packet->pts += offset;
    if (packet->dts != AV_NOPTS_VALUE) packet->dts += offset;
    if (!take(*packet, index)) return;
  }
}

std::vector<Row> Video::read_rows() {
  std::vector<Row> rows;
  read_packets([&](const AVPacket& packet, int64_t) {
    rows.push_back({packet.pts, packet.dts, packet.duration, (packet.flags & AV_PKT_FLAG_KEY) != 0, (packet.flags & AV_PKT_FLAG_DISCARD) != 0});
    return true;
  });
  return rows;
}

// The matrix (ISO/IEC 14496-12, 8.3.2) maps a stored point (x, y) to (a x + c y, b x + d y), with y pointing down.
Orientation Video::find_orientation(const AVFrame& frame) const {
  const int32_t* matrix = nullptr;
  if (const AVFrameSideData* own = av_frame_get_side_data(&frame, AV_FRAME_DATA_DISPLAYMATRIX); own != nullptr && own->size >= 36) {
    matrix = reinterpret_cast<const int32_t*>(own->data);
  }
#if LIBAVCODEC_VERSION_INT < AV_VERSION_INT(60, 30, 100)
  size_t size = 0;
  const uint8_t* global = av_stream_get_side_data(&stream(), AV_PKT_DATA_DISPLAYMATRIX, &size);
  if (matrix == nullptr && global != nullptr && size >= 36) matrix = reinterpret_cast<const int32_t*>(global);
#endif
  if (matrix == nullptr) return {};
  const int64_t a = matrix[0], b = matrix[1], c = matrix[3], d = matrix[4];
  if (std::abs(b) > std::abs(a)) return {true, c <= 0, b <= 0};
  return {false, a < 0, d < 0};
}

std::optional<long double> Video::read_frames(const std::function<bool(const AVFrame&, long double)>& take) {
  const DecoderPointer decoder = open_decoder();
  const std::string name = decoder->codec->name;
  const bool is_grey = std::find(std::begin(GREY_DECODERS), std::end(GREY_DECODERS), name) != std::end(GREY_DECODERS);
  const FramePointer frame = make_frame();
  Timeline timeline(interval());
  std::optional<long double> start;
  bool goes_on = true;
  const auto decode = [&](AVPacket* packet, int64_t index) {
    if (packet != nullptr) set_index(*decoder, *packet, index);
    if (avcodec_send_packet(decoder.get(), packet) < 0) return;  // damaged
    while (goes_on && avcodec_receive_frame(decoder.get(), frame.get()) >= 0) {
      // Some decoders make grey frames before the first that refers to none.
      if (!start && is_grey && frame->pict_type != AV_PICTURE_TYPE_I) continue;
      const int64_t length =
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(58, 2, 100)
          frame->duration;
#else
          frame->pkt_duration;
#endif
      const long double time = timeline.add(frame->pts, frame->pkt_dts, length);
      if (!first_) {
        const Orientation orientation = find_orientation(*frame);
        const AVRational shape = av_guess_sample_aspect_ratio(source_->container, source_->container->streams[track_], nullptr);
        double aspect = shape.num > 0 && shape.den > 0 ? to_double(shape) : 1.0;
        if (aspect > MAX_ASPECT || aspect < 1 / MAX_ASPECT) aspect = 1.0;
        first_ = FirstFrame{frame->pts, get_index(*frame), orientation, orientation.is_transposed ? 1 / aspect : aspect};
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(58, 7, 100)
        const bool is_interlaced = (frame->flags & AV_FRAME_FLAG_INTERLACED) != 0;
#else
        const bool is_interlaced = frame->interlaced_frame != 0;
#endif
        if (is_interlaced) note("is interlaced; both fields of a frame are taken together, as they are stored");
      }
      if (!start) start = time;
      goes_on = take(*frame, time - *start);
    }
  };
  // Packets before the first keyframe are left out, unless none is found soon.
  std::vector<std::pair<PacketPointer, int64_t>> held;
  int64_t size = 0;
  bool is_begun = false;
  const auto release = [&] {
    is_begun = true;
    for (auto& [packet, index] : held) decode(packet.get(), index);
    held.clear();
  };
  read_packets([&](AVPacket& packet, int64_t index) {
    if (!is_begun) {
      const bool is_key = (packet.flags & AV_PKT_FLAG_KEY) != 0;
      if (is_key) held.clear();
      PacketPointer own = make_packet();
      if (av_packet_ref(own.get(), &packet) < 0) throw std::bad_alloc();
      held.emplace_back(std::move(own), index);
      size += packet.size;
      if (is_key || held.size() >= MAX_PACKETS_TO_KEYFRAME || size > MAX_BYTES_TO_KEYFRAME) release();
    } else {
      decode(&packet, index);
    }
    return goes_on;
  });
  if (goes_on) {
    release();
    decode(nullptr, 0);
  }
  if (!goes_on || !start) return std::nullopt;
  return timeline.end() - *start;
}

const FirstFrame& Video::first() {
  if (!first_) read_frames([](const AVFrame&, long double) { return false; });
  if (!first_) {
    const std::string sizes = stream().codecpar->width != 0 ? "" : " within the limit pixels, " + show(options_.limits.pixels);
    fail("none of its frames can be decoded" + sizes);
  }
  return *first_;
}

// Where the frames end by the headers, in seconds on the stream's clock.
std::optional<double> Video::find_stated_end() const {
  const AVFormatContext& own = container();
  const double start = stream().start_time == AV_NOPTS_VALUE ? 0 : seconds(static_cast<long double>(stream().start_time));
  const AVDictionaryEntry* tag = av_dict_get(stream().metadata, "DURATION", nullptr, 0);
  if (tag != nullptr && is_named(own, MATROSKA)) {
    int hours = 0, minutes = 0;
    double rest = 0;
    const std::string text = tag->value;
    const size_t first = text.find(':'), second = text.find(':', first + 1);
    int64_t number = 0;
    if (first == std::string::npos || second == std::string::npos) return std::nullopt;
    if (!parse_number(std::string_view(text).substr(0, first), number) || number < 0 || number > 1'000'000) return std::nullopt;
    hours = static_cast<int>(number);
    if (!parse_number(std::string_view(text).substr(first + 1, second - first - 1), number) || number < 0 || number > 1'000'000) return std::nullopt;
    minutes = static_cast<int>(number);
    if (!parse_number(std::string_view(text).substr(second + 1), rest)) return std::nullopt;
    return 3600.0 * hours + 60.0 * minutes + rest;
  }
  if (stream().duration > 0 && (is_named(own, MOV) || is_named(own, "avi"))) return start + seconds(static_cast<long double>(stream().duration));
  if (own.duration > 0 && own.nb_streams == 1) {
    const int64_t begin = is_named(own, "flv") || own.start_time == AV_NOPTS_VALUE ? 0 : own.start_time;  // FLV states an end
    return static_cast<double>(begin + own.duration) / AV_TIME_BASE;
  }
  return std::nullopt;
}

// Where the frame of the last packet ends, from the file's tail; nothing if the tail cannot be found.
std::optional<double> Video::find_end() {
  rewind();
  source_->has_moved = true;
  AVFormatContext& own = *source_->container;
  if (own.duration <= 0) return std::nullopt;
  const auto stated = find_stated_end();
  const int64_t goal = (own.start_time == AV_NOPTS_VALUE ? 0 : own.start_time) + own.duration;
  if (av_seek_frame(&own, track_, av_rescale_q_rnd(goal, AVRational{1, AV_TIME_BASE}, time_base(), AV_ROUND_ZERO), AVSEEK_FLAG_BACKWARD) < 0) {
    return std::nullopt;
  }
  Timeline timeline(interval());
  const PacketPointer packet = make_packet();
  int64_t last_duration = 0;
  bool hides = false;
  while (next_packet(*packet)) {
    if ((packet->flags & AV_PKT_FLAG_DISCARD) != 0) {
      hides = true;
      continue;
    }
    timeline.add(trusts_pts_ ? packet->pts : AV_NOPTS_VALUE, packet->dts, packet->duration);
    last_duration = packet->duration;
  }
  if (timeline.is_empty()) return std::nullopt;
  double end = seconds(timeline.end());
  if (stated && last_duration == 0) end = std::max(end, std::min(*stated, end + MAX_MISSING_SECONDS));
  if (hides && is_named(own, MOV) && stream().duration > 0) end = std::min(end, seconds(static_cast<long double>(stream().duration)));
  return end;
}

void Video::check_complete(double end) {
  const auto stated = find_stated_end();
  const double start = stream().start_time == AV_NOPTS_VALUE ? 0 : seconds(static_cast<long double>(stream().start_time));
  if (stated && *stated - end > MAX_MISSING_SECONDS) {
    warn("its header says " + fixed(*stated - start, 1) + " s, but its frames end at " + fixed(end - start, 1) + " s");
  }
}

double Video::duration() {
  if (duration_) return *duration_;
  const FirstFrame own = first();
  std::optional<double> end;
  double start = own.pts == AV_NOPTS_VALUE ? 0 : seconds(static_cast<long double>(own.pts));
  const bool is_discontinuous = (container().iformat->flags & AVFMT_TS_DISCONT) != 0;
  if (own.pts != AV_NOPTS_VALUE && !is_discontinuous) end = find_end();
  if (!end) {  // from all packets
    const auto frames_end = read_frames([](const AVFrame&, long double) { return true; });
    end = start + seconds(frames_end.value_or(interval()));
  }
  check_complete(*end);
  double length = *end - start;
  if (length > static_cast<double>(options_.limits.seconds)) {
    fail("is " + fixed(length, 0) + " s long, the limit seconds is " + show(options_.limits.seconds));
  }
  if (!(length > 0)) length = seconds(interval());
  duration_ = length;
  return length;
}

}  // namespace vta
