#include "wav.hpp"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "error.hpp"
#include "platform.hpp"

namespace vta {
namespace {

void append(std::string& bytes, uint32_t value, int count) {
  for (int index = 0; index < count; ++index) bytes += static_cast<char>(value >> (8 * index) & 0xff);
}

}  // namespace

std::string suffix_of(const std::string& path) {
  const std::filesystem::path name(std::u8string(path.begin(), path.end()));
  const std::u8string text = name.extension().u8string();
  std::string suffix(text.begin(), text.end());
  for (char& c : suffix) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return suffix;
}

void write_wav(const Audio& audio, const std::string& path) {
  const auto size = static_cast<uint32_t>(2 * audio.samples.size()), rate = static_cast<uint32_t>(audio.sample_rate);
  std::string bytes = "RIFF";
  bytes.reserve(size + 44);
  append(bytes, 36 + size, 4);
  bytes += "WAVEfmt ";
  append(bytes, 16, 4);
  append(bytes, 1, 2);  // PCM
  append(bytes, 1, 2);  // mono
  append(bytes, rate, 4);
  append(bytes, 2 * rate, 4);
  append(bytes, 2, 2);
  append(bytes, 16, 2);
  bytes += "data";
  append(bytes, size, 4);
  for (const float sample : audio.samples) {
    append(bytes, static_cast<uint32_t>(static_cast<int32_t>(std::clamp(sample * 32768, -32768.0F, 32767.0F))), 2);
  }
  std::ofstream file(std::filesystem::path(std::u8string(path.begin(), path.end())), std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) throw std::system_error(errno != 0 ? errno : EIO, std::generic_category());
}

void save_wav(const Audio& audio, const std::string& path) {
  const std::string suffix = suffix_of(path);
  if (suffix != ".wav") {
    throw OptionError(path + ": sound is saved as .wav, not " + (suffix.empty() ? "a name without suffix" : suffix));
  }
  const std::string problem = write_atomically(path, [&](const std::string& part) { write_wav(audio, part); });
  if (!problem.empty()) throw OutputError(path + ": " + problem);
}

}  // namespace vta
