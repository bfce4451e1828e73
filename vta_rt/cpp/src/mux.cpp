#include "mux.hpp"

extern "C" {
#include <libavutil/avstring.h>
#include <libavutil/channel_layout.h>
#include <libavutil/opt.h>
#include <libswresample/swresample.h>
}

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>

#include "error.hpp"
#include "platform.hpp"
#include "text.hpp"

namespace vta {
namespace {

struct ContainerKind {
  const char* suffix;
  const char* format;
  AVCodecID sound;
  const char* encoder;
  bool hides_start;  // frames before time 0 are not shown, by an edit list
};

constexpr ContainerKind CONTAINERS[] = {{".mp4", "mp4", AV_CODEC_ID_AAC, "aac", true},
                                        {".mov", "mov", AV_CODEC_ID_AAC, "aac", true},
                                        {".mkv", "matroska", AV_CODEC_ID_AAC, "aac", false},
                                        {".webm", "webm", AV_CODEC_ID_OPUS, "libopus", false}};
constexpr const char* FILE_METADATA[] = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"};

const ContainerKind& find_container(const std::string& path) {
  const std::string suffix = suffix_of(path);
  for (const ContainerKind& kind : CONTAINERS) {
    if (suffix == kind.suffix) return kind;
  }
  throw OptionError(path + ": a video is written as .mp4, .mov, .mkv, .webm, not " + (suffix.empty() ? "a bare name" : suffix));
}

void attempt(int code) {
  if (code < 0) throw OutputError(describe_error(code));
}

// When every packet is shown and decoded once it is copied, in units of the stream, on a clock whose 0 is the first frame.
struct CopyPlan {
  std::vector<Row> rows;
  std::vector<bool> copied;
};

// Decoding times for frames in the order of decoding: their own presentation times in order, as late as is needed.
void make_decoding_times(CopyPlan& plan, int64_t interval) {
  std::vector<size_t> places;
  std::vector<int64_t> times;
  for (size_t index = 0; index < plan.rows.size(); ++index) {
    if (!plan.copied[index]) continue;
    places.push_back(index);
    times.push_back(plan.rows[index].pts);
  }
  std::sort(times.begin(), times.end());
  size_t delay = 0;
  for (size_t place = 0; place < places.size(); ++place) {
    const auto rank = static_cast<size_t>(std::lower_bound(times.begin(), times.end(), plan.rows[places[place]].pts) - times.begin());
    if (place > rank) delay = std::max(delay, place - rank);
  }
  for (size_t place = 0; place < places.size(); ++place) {
    plan.rows[places[place]].dts = place >= delay ? times[place - delay] : times[0] - static_cast<int64_t>(delay - place) * interval;
  }
}

bool has_decoding_times(const CopyPlan& plan) {
  int64_t previous = AV_NOPTS_VALUE;
  for (size_t index = 0; index < plan.rows.size(); ++index) {
    const Row& row = plan.rows[index];
    if (!plan.copied[index]) continue;
    if (row.dts == AV_NOPTS_VALUE || row.dts > row.pts || (previous != AV_NOPTS_VALUE && row.dts <= previous)) return false;
    previous = row.dts;
  }
  return true;
}

// What is left out: what cannot be decoded before the first frame, and what is hidden and not referred to, as only frames that
// are decoded later and before the next keyframe, or shown before that one, refer to a packet.
std::vector<bool> choose_packets(const std::vector<Row>& rows, size_t first) {
  size_t key = first;
  while (key > 0 && !rows[key].is_keyframe) --key;
  if (!rows[key].is_keyframe) key = first;
  std::vector<bool> copied(rows.size(), false);
  bool is_needed = false;
  for (size_t index = rows.size(); index-- > key;) {
    const Row& row = rows[index];
    const bool is_undecodable = index > key && !row.is_discard && row.pts < std::min(rows[key].pts, rows[first].pts);
    copied[index] = !is_undecodable && (!row.is_discard || is_needed);
    is_needed = is_needed || (copied[index] && !row.is_discard);
    if (row.is_keyframe) {
      is_needed = false;
      for (size_t other = index + 1; other < rows.size() && !rows[other].is_keyframe; ++other) {
        is_needed = is_needed || (copied[other] && rows[other].pts < row.pts);
      }
    }
  }
  return copied;
}

CopyPlan plan_copy(Video& video, const ContainerKind& kind) {
  const FirstFrame first = video.first();
  CopyPlan plan{video.read_rows(), {}};
  std::vector<Row>& rows = plan.rows;
  const AVRational base = video.time_base();
  const AVRational rate = video.stream().avg_frame_rate.num > 0 ? video.stream().avg_frame_rate : AVRational{25, 1};
  const int64_t interval = std::max<int64_t>(1, av_rescale_q(1, av_inv_q(rate), base));
  const std::string unusual = video.path() + ": its timestamps are of a kind that vta-rt cannot copy; `vta generate` can, and -o NAME.wav makes the sound alone";
  if (std::any_of(rows.begin(), rows.end(), [](const Row& row) { return row.pts == AV_NOPTS_VALUE; })) throw VideoError(unusual);
  size_t index = first.index >= 0 && static_cast<size_t>(first.index) < rows.size() ? static_cast<size_t>(first.index) : 0;
  plan.copied = choose_packets(rows, index);
  const int64_t start = rows[index].pts;
  std::vector<size_t> order, early;
  for (size_t place = 0; place < rows.size(); ++place) {
    if (!plan.copied[place]) continue;
    if (rows[place].pts < start) {
      early.push_back(place);
    } else if (rows[place].is_discard) {
      throw VideoError(unusual);
    }
    order.push_back(place);
  }
  const auto by_time = [&](size_t left, size_t right) { return rows[left].pts < rows[right].pts; };
  std::stable_sort(order.begin(), order.end(), by_time);
  std::stable_sort(early.begin(), early.end(), by_time);
  bool is_moved = false;
  if (!kind.hides_start && !early.empty()) {
    video.note("hides " + show(static_cast<int64_t>(early.size())) + " frames before its start; " + kind.format +
               " cannot, they flash by; .mp4 and .mov hide them");
    const int64_t flash = std::max<int64_t>(1, av_rescale_q_rnd(1, {1, 1000}, base, AV_ROUND_UP));
    for (size_t place = 0; place < early.size(); ++place) rows[early[place]].pts = start - flash * static_cast<int64_t>(early.size() - place);
    is_moved = true;
  }
  for (size_t place = 1; place < order.size(); ++place) {  // frames of the same time are moved apart
    Row &before = rows[order[place - 1]], &row = rows[order[place]];
    if (row.pts > before.pts) continue;
    row.pts = before.pts + 1;
    is_moved = true;
  }
  if (is_moved || !has_decoding_times(plan)) make_decoding_times(plan, interval);
  for (size_t place = 0; place < order.size(); ++place) {
    Row& row = rows[order[place]];
    if (place + 1 < order.size()) {
      row.duration = rows[order[place + 1]].pts - row.pts;
    } else if (row.duration <= 0) {
      row.duration = interval;
    }
  }
  for (Row& row : rows) {
    row.pts -= start;
    row.dts -= start;
  }
  return plan;
}

// A file that is written to, or, without a name, one that forgets what is written.
class Sink {
 public:
  Sink(const ContainerKind& kind, const std::string& path) : is_kept_(!path.empty()) {
    attempt(avformat_alloc_output_context2(&context, nullptr, kind.format, path.empty() ? nullptr : ("file:" + path).c_str()));
    if (is_kept_) {
      attempt(avio_open(&context->pb, ("file:" + path).c_str(), AVIO_FLAG_WRITE));
    } else {
      attempt(avio_open_dyn_buf(&context->pb));
    }
  }
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;
  ~Sink() {
    if (context->pb != nullptr && is_kept_) {
      avio_closep(&context->pb);
    } else if (context->pb != nullptr) {
      uint8_t* buffer = nullptr;
      avio_close_dyn_buf(context->pb, &buffer);
      av_free(buffer);
    }
    avformat_free_context(context);
  }

  void write_header() {
    AVDictionary* settings = nullptr;
    // The index goes first, so that playing can begin before everything is downloaded.
    if (is_kept_ && (context->oformat->flags & AVFMT_GLOBALHEADER) != 0 && std::strcmp(context->oformat->name, "matroska") != 0 &&
        std::strcmp(context->oformat->name, "webm") != 0) {
      av_dict_set(&settings, "movflags", "+faststart", 0);
    }
    av_dict_set(&settings, "strict", "unofficial", 0);
    const int code = avformat_write_header(context, &settings);
    av_dict_free(&settings);
    attempt(code);
  }

  AVFormatContext* context = nullptr;

 private:
  bool is_kept_;
};

AVStream& add_video(Sink& sink, const Video& video) {
  AVStream* copy = avformat_new_stream(sink.context, nullptr);
  if (copy == nullptr) throw std::bad_alloc();
  const AVStream& own = video.stream();
  attempt(avcodec_parameters_copy(copy->codecpar, own.codecpar));
  // The tag of another container may mean nothing here; those that Apple's players need are kept where they are known.
  const uint32_t tag = own.codecpar->codec_tag;
  const unsigned hvc1 = MKTAG('h', 'v', 'c', '1');
  const bool is_mov = std::strcmp(sink.context->oformat->name, "mp4") == 0 || std::strcmp(sink.context->oformat->name, "mov") == 0;
  copy->codecpar->codec_tag = is_mov && tag == hvc1 ? tag : 0;
  copy->time_base = own.time_base;
  copy->avg_frame_rate = own.avg_frame_rate;
  copy->sample_aspect_ratio = own.sample_aspect_ratio.num > 0 ? own.sample_aspect_ratio : own.codecpar->sample_aspect_ratio;
  copy->codecpar->sample_aspect_ratio = copy->sample_aspect_ratio;
  copy->disposition = own.disposition | AV_DISPOSITION_DEFAULT;
  for (const char* key : {"language", "title", "handler_name"}) {
    if (const AVDictionaryEntry* entry = av_dict_get(own.metadata, key, nullptr, 0)) av_dict_set(&copy->metadata, key, entry->value, 0);
  }
#if LIBAVCODEC_VERSION_INT < AV_VERSION_INT(60, 30, 100)
  for (int index = 0; index < own.nb_side_data; ++index) {
    const AVPacketSideData& data = own.side_data[index];
    uint8_t* target = av_stream_new_side_data(copy, data.type, data.size);
    if (target == nullptr) throw std::bad_alloc();
    std::memcpy(target, data.data, data.size);
  }
#endif
  return *copy;
}

// Whether a container can hold a copy of the video stream: found out by writing a header to nowhere.
bool can_hold(const ContainerKind& kind, const Video& video) {
  if (video.stream().codecpar->codec_id == AV_CODEC_ID_RAWVIDEO) return false;
  try {
    Sink sink(kind, "");
    if (avformat_query_codec(sink.context->oformat, video.stream().codecpar->codec_id, FF_COMPLIANCE_UNOFFICIAL) == 0) return false;
    add_video(sink, video);
    sink.write_header();
    av_write_trailer(sink.context);
  } catch (const OutputError&) {
    return false;
  }
  return true;
}

// The sound as packets.
class SoundEncoder {
 public:
  SoundEncoder(const ContainerKind& kind, const Audio& audio, Sink& sink) : audio_(audio) {
    const AVCodec* codec = avcodec_find_encoder_by_name(kind.encoder);
    if (codec == nullptr) codec = avcodec_find_encoder(kind.sound);
    if (codec == nullptr) throw OutputError(std::string("this FFmpeg has no encoder of ") + avcodec_get_name(kind.sound));
    encoder_.reset(avcodec_alloc_context3(codec));
    stream_ = avformat_new_stream(sink.context, nullptr);
    if (!encoder_ || stream_ == nullptr) throw std::bad_alloc();
    rate_ = choose_rate(kind, static_cast<int>(audio.sample_rate));
    encoder_->sample_rate = rate_;
    encoder_->sample_fmt = kind.sound == AV_CODEC_ID_AAC ? AV_SAMPLE_FMT_FLTP : AV_SAMPLE_FMT_FLT;
    encoder_->bit_rate = std::min(128'000, 6 * rate_);  // AAC's limit is 6 bits a sample
    encoder_->time_base = {1, rate_};
    const AVChannelLayout mono = AV_CHANNEL_LAYOUT_MONO;
    attempt(av_channel_layout_copy(&encoder_->ch_layout, &mono));
    if ((sink.context->oformat->flags & AVFMT_GLOBALHEADER) != 0) encoder_->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    attempt(avcodec_open2(encoder_.get(), codec, nullptr));
    attempt(avcodec_parameters_from_context(stream_->codecpar, encoder_.get()));
    stream_->time_base = encoder_->time_base;
    stream_->disposition = AV_DISPOSITION_DEFAULT;
  }

  // All packets, with times in units of the encoder. Few seconds of compressed sound: they may be held.
  std::deque<PacketPointer> encode() {
    const std::vector<float> samples = resample();
    std::deque<PacketPointer> packets;
    const int size = encoder_->frame_size > 0 ? encoder_->frame_size : 1024;
    for (size_t begin = 0; begin < samples.size(); begin += static_cast<size_t>(size)) {
      const FramePointer frame = make_frame();
      frame->format = encoder_->sample_fmt;
      frame->sample_rate = rate_;
      frame->nb_samples = static_cast<int>(std::min(samples.size() - begin, static_cast<size_t>(size)));
      frame->pts = static_cast<int64_t>(begin);
      attempt(av_channel_layout_copy(&frame->ch_layout, &encoder_->ch_layout));
      attempt(av_frame_get_buffer(frame.get(), 0));
      std::memcpy(frame->data[0], samples.data() + begin, sizeof(float) * static_cast<size_t>(frame->nb_samples));
      send(frame.get(), packets);
    }
    send(nullptr, packets);
    return packets;
  }

  int index() const { return stream_->index; }
  AVRational time_base() const { return encoder_->time_base; }

 private:
  static int choose_rate(const ContainerKind& kind, int rate) {
    constexpr int AAC_RATES[] = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350};
    constexpr int OPUS_RATES[] = {48000, 24000, 16000, 12000, 8000};
    const bool is_aac = kind.sound == AV_CODEC_ID_AAC;
    const bool fits = is_aac ? std::find(std::begin(AAC_RATES), std::end(AAC_RATES), rate) != std::end(AAC_RATES)
                             : std::find(std::begin(OPUS_RATES), std::end(OPUS_RATES), rate) != std::end(OPUS_RATES);
    return fits ? rate : 48'000;
  }

  std::vector<float> resample() const {
    std::vector<float> samples(audio_.samples.size());
    std::transform(audio_.samples.begin(), audio_.samples.end(), samples.begin(), [](float value) { return std::clamp(value, -1.0F, 1.0F); });
    if (rate_ == audio_.sample_rate) return samples;
    SwrContext* own = nullptr;
    AVChannelLayout mono = AV_CHANNEL_LAYOUT_MONO;  // not const for FFmpeg 5.1
    attempt(swr_alloc_set_opts2(&own, &mono, AV_SAMPLE_FMT_FLT, rate_, &mono, AV_SAMPLE_FMT_FLT, static_cast<int>(audio_.sample_rate), 0, nullptr));
    struct Free {
      void operator()(SwrContext* context) const { swr_free(&context); }
    };
    const std::unique_ptr<SwrContext, Free> converter(own);
    attempt(swr_init(converter.get()));
    std::vector<float> result(static_cast<size_t>(av_rescale_rnd(static_cast<int64_t>(samples.size()), rate_, audio_.sample_rate, AV_ROUND_UP)) + 1024);
    auto* out = reinterpret_cast<uint8_t*>(result.data());
    const auto* in = reinterpret_cast<const uint8_t*>(samples.data());
    const int made = swr_convert(converter.get(), &out, static_cast<int>(result.size()), &in, static_cast<int>(samples.size()));
    attempt(made);
    out += sizeof(float) * static_cast<size_t>(made);
    const int rest = swr_convert(converter.get(), &out, static_cast<int>(result.size()) - made, nullptr, 0);
    attempt(rest);
    result.resize(static_cast<size_t>(made + rest));
    return result;
  }

  void send(const AVFrame* frame, std::deque<PacketPointer>& packets) {
    attempt(avcodec_send_frame(encoder_.get(), frame));
    for (;;) {
      PacketPointer packet = make_packet();
      const int code = avcodec_receive_packet(encoder_.get(), packet.get());
      if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return;
      attempt(code);
      packets.push_back(std::move(packet));
    }
  }

  const Audio& audio_;
  DecoderPointer encoder_;
  AVStream* stream_ = nullptr;
  int rate_ = 0;
};

void note_what_is_left_out(Video& video) {
  std::map<std::string, int> lost;
  for (unsigned index = 0; index < video.container().nb_streams; ++index) {
    const AVStream& own = *video.container().streams[index];
    if (own.index == video.stream().index) continue;
    const char* name = av_get_media_type_string(own.codecpar->codec_type);
    ++lost[(own.disposition & AV_DISPOSITION_ATTACHED_PIC) != 0 ? "cover" : name != nullptr ? name : "unknown"];
  }
  if (video.container().nb_chapters > 0) lost["chapters"] = 1;
  std::vector<std::string> names;
  for (const auto& [name, count] : lost) names.push_back(count > 1 ? show(int64_t{count}) + " " + name : name);
  if (!names.empty()) video.note("its " + join(names) + " are left out; `vta generate` keeps them");
}

void write(Video& video, const CopyPlan& plan, const ContainerKind& kind, const Audio& audio, const std::string& path) {
  Sink sink(kind, path);
  const AVDictionaryEntry* entry = nullptr;
  while ((entry = av_dict_get(video.container().metadata, "", entry, AV_DICT_IGNORE_SUFFIX)) != nullptr) {
    const auto is_own = [&](const char* name) { return av_strcasecmp(entry->key, name) == 0; };
    if (std::none_of(std::begin(FILE_METADATA), std::end(FILE_METADATA), is_own)) av_dict_set(&sink.context->metadata, entry->key, entry->value, 0);
  }
  const int copy = add_video(sink, video).index;
  const AVRational base = video.time_base();
  SoundEncoder encoder(kind, audio, sink);
  sink.write_header();
  std::deque<PacketPointer> sound = encoder.encode();
  const auto write_packet = [&](AVPacket& packet, int index, AVRational unit) {
    packet.stream_index = index;
    packet.pos = -1;
    av_packet_rescale_ts(&packet, unit, sink.context->streams[index]->time_base);
    attempt(av_interleaved_write_frame(sink.context, &packet));
  };
  video.read_packets([&](AVPacket& packet, int64_t index) {
    const auto place = static_cast<size_t>(index);
    if (place >= plan.rows.size() || !plan.copied[place]) return true;
    const Row& row = plan.rows[place];
    while (!sound.empty() && av_compare_ts(sound.front()->dts, encoder.time_base(), row.dts, base) <= 0) {
      write_packet(*sound.front(), encoder.index(), encoder.time_base());
      sound.pop_front();
    }
    packet.pts = row.pts;
    packet.dts = row.dts;
    packet.duration = row.duration;
    packet.flags &= ~AV_PKT_FLAG_DISCARD;
    packet.opaque = nullptr;
    write_packet(packet, copy, base);
    return true;
  });
  for (const PacketPointer& packet : sound) write_packet(*packet, encoder.index(), encoder.time_base());
  attempt(av_write_trailer(sink.context));
  avio_flush(sink.context->pb);
  attempt(sink.context->pb->error);
}

CopyPlan prepare(Video& video, const ContainerKind& kind, const std::string& path) {
  if (is_same_file(video.path(), path)) throw OutputError(path + ": is the video itself, another name is needed");
  video.first();  // a file without frames is that before all else
  if (!can_hold(kind, video)) {
    std::vector<std::string> able;
    for (const ContainerKind& other : CONTAINERS) {
      if (can_hold(other, video)) able.emplace_back(other.suffix);
    }
    throw OutputError(path + ": " + kind.format + " cannot hold " + video.codec_name() + " video; " +
                      (able.empty() ? "none of our containers" : join(able, " or ")) + " can, and .wav takes the sound alone");
  }
  note_what_is_left_out(video);
  return plan_copy(video, kind);
}

}  // namespace

void mux(Video& video, const Audio& audio, const std::string& path) {
  const ContainerKind& kind = find_container(path);
  const CopyPlan plan = prepare(video, kind, path);
  std::string problem;
  try {
    problem = write_atomically(path, [&](const std::string& part) { write(video, plan, kind, audio, part); });
  } catch (const OutputError& error) {
    problem = std::string("cannot be written (") + error.what() + ")";
  }
  if (!problem.empty()) throw OutputError(path + ": " + problem);
}

void check_mux(Video& video, const std::string& path) {
  const ContainerKind& kind = find_container(path);
  prepare(video, kind, path);
}

std::string choose_container(Video& video) {
  const std::string own = suffix_of(video.path());
  const AVCodecID codec = video.stream().codecpar->codec_id;
  if (codec != AV_CODEC_ID_GIF && codec != AV_CODEC_ID_APNG) {  // players do not show these in a video file
    for (const ContainerKind& kind : CONTAINERS) {
      if (own == kind.suffix && can_hold(kind, video)) return own;
    }
    for (const ContainerKind& kind : CONTAINERS) {
      if (can_hold(kind, video)) return kind.suffix;
    }
  }
  throw VideoError(video.path() + ": its " + video.codec_name() +
                   " video cannot be copied into .mp4, .mov, .mkv, .webm; -o NAME.wav makes the sound alone");
}

bool is_video_suffix(const std::string& suffix) {
  return std::any_of(std::begin(CONTAINERS), std::end(CONTAINERS), [&](const ContainerKind& kind) { return suffix == kind.suffix; });
}

}  // namespace vta
