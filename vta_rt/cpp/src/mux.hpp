// A video file with a new soundtrack: the video stream of another file, its packets copied.
#pragma once

#include <string>

#include "video.hpp"
#include "wav.hpp"

namespace vta {

// The file starts at 0, with the first frame that is shown, and so does the sound, encoded as AAC, in .webm as Opus. Rotation,
// the shape of pixels, colour and metadata stay; other sound, subtitles, chapters and attachments are left out, which is noted.
// Raises OptionError for another suffix, VideoError, OutputError.
void mux(Video& video, const Audio& audio, const std::string& path);

// Raises what `mux` would, before the sound is made.
void check_mux(Video& video, const std::string& path);

// The suffix of the container for a copy: the file's own, if it can hold it, else the first that can. Raises VideoError.
std::string choose_container(Video& video);

bool is_video_suffix(const std::string& suffix);

}  // namespace vta
