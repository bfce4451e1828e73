#include "text.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "error.hpp"

namespace vta {
namespace {

constexpr size_t MAX_SHOWN = 60;

template <typename... Arguments>
std::string convert(double value, Arguments... arguments) {
  std::array<char, 512> buffer{};
  const auto done = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, arguments...);
  return {buffer.data(), done.ptr};
}

template <typename Number>
bool parse_all(std::string_view text, Number& value) {
  const auto done = std::from_chars(text.data(), text.data() + text.size(), value);
  return done.ec == std::errc() && done.ptr == text.data() + text.size();
}

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

std::string show(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf";
  const std::string shortest = convert(value, std::chars_format::scientific);  // 1.25e-05
  const size_t mark = shortest.find('e');
  int64_t exponent = 0;
  parse_number(std::string_view(shortest).substr(mark + (shortest[mark + 1] == '+' ? 2 : 1)), exponent);
  if (exponent < -4 || exponent >= 16) return shortest;
  const std::string plain = convert(value, std::chars_format::fixed);
  return plain.find('.') == std::string::npos ? plain + ".0" : plain;
}

std::string show(int64_t value) { return std::to_string(value); }

std::string show(std::string_view value) {
  const char quote = value.find('\'') != std::string_view::npos && value.find('"') == std::string_view::npos ? '"' : '\'';
  std::string text(1, quote);
  size_t characters = 1;
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xC0) != 0x80 && ++characters > MAX_SHOWN) return text + "…";
    if (c == '\n' || c == '\t' || c == '\r') {
      text += c == '\n' ? "\\n" : c == '\t' ? "\\t" : "\\r";
    } else if (byte < 0x20 || byte == 0x7F) {
      constexpr std::string_view digits = "0123456789abcdef";
      text += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    } else {
      if (c == '\\' || c == quote) text += '\\';
      text += c;
    }
  }
  return text + quote;
}

std::string general(double value) { return convert(value, std::chars_format::general, 6); }

std::string fixed(double value, int digits) { return convert(value, std::chars_format::fixed, digits); }

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string text;
  for (size_t index = 0; index < parts.size(); ++index) text += (index ? std::string(separator) : "") + parts[index];
  return text;
}

std::string show_list(const std::vector<int64_t>& values) {
  std::vector<std::string> parts;
  for (const int64_t value : values) parts.push_back(show(value));
  return "[" + join(parts) + "]";
}

std::string one_line(std::string_view text, size_t limit) {
  std::string line;
  for (const char c : text) {
    if (!is_space(c)) {
      line += c;
    } else if (!line.empty() && line.back() != ' ') {
      line += ' ';
    }
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  if (line.size() > limit) line.resize(limit);
  return line;
}

double round_decimals(double value, int digits) {
  double rounded = value;
  parse_number(fixed(value, digits), rounded);
  return rounded;
}

bool parse_number(std::string_view text, double& value) { return parse_all(text, value); }
bool parse_number(std::string_view text, int64_t& value) { return parse_all(text, value); }

void check_integer(std::string_view name, int64_t value, int64_t minimum, int64_t maximum) {
  if (value >= minimum && value <= maximum) return;
  throw OptionError(std::string(name) + " is " + show(value) + ", an integer from " + show(minimum) + " to " +
                    show(maximum) + " is needed");
}

void check_integer(std::string_view name, int64_t value, int64_t minimum) {
  if (value >= minimum) return;
  throw OptionError(std::string(name) + " is " + show(value) + ", an integer of " + show(minimum) + " or more is needed");
}

void check_choice(std::string_view name, std::string_view value, const std::vector<std::string>& allowed) {
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return;
  throw OptionError(std::string(name) + " is " + show(value) + ", one of " + join(allowed) + " is needed");
}

}  // namespace vta
