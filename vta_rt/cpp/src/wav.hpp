// Sound files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vta {

struct Audio {
  std::vector<float> samples;  // mono, full scale is [-1, 1]
  int64_t sample_rate = 0;

  double duration() const { return static_cast<double>(samples.size()) / static_cast<double>(sample_rate); }
};

// Writes a .wav of 16-bit samples, completely or not at all. Raises OptionError for another suffix, OutputError.
void save_wav(const Audio& audio, const std::string& path);
void write_wav(const Audio& audio, const std::string& path);  // whatever its name, in place

std::string suffix_of(const std::string& path);  // of the file's name, in lower case, with its dot

}  // namespace vta
