// Values in messages, written as Python writes them so that both programs say the same; independent of the locale.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace vta {

std::string show(double value);            // 0.5, 16.0, 1e-05
std::string show(int64_t value);           // 16
std::string show(std::string_view value);  // 'text', cut after 60 characters
std::string general(double value);         // as printf's %g
std::string fixed(double value, int digits);
std::string join(const std::vector<std::string>& parts, std::string_view separator = ", ");
std::string show_list(const std::vector<int64_t>& values);  // [1, 2]
std::string one_line(std::string_view text, size_t limit = 300);
double round_decimals(double value, int digits);  // as Python's round(): correctly rounded, ties to even

// The number that a text is, all of it; returns whether it is one.
bool parse_number(std::string_view text, double& value);
bool parse_number(std::string_view text, int64_t& value);

// Raises OptionError unless minimum <= value <= maximum.
void check_integer(std::string_view name, int64_t value, int64_t minimum, int64_t maximum);
void check_integer(std::string_view name, int64_t value, int64_t minimum);
void check_choice(std::string_view name, std::string_view value, const std::vector<std::string>& allowed);

}  // namespace vta
