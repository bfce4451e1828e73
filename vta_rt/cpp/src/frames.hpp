// The frames that are on screen at given times, upright and fitted for a model, as in vta_rt/video/frames.py.
#pragma once

#include "pipeline.hpp"
#include "video.hpp"

namespace vta {

// Raises VideoError.
Clip read_clip(Video& video, const Manifest& manifest);

}  // namespace vta
