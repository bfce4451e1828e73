// SHA-256 (FIPS 180-4).
#pragma once

#include <string>
#include <string_view>

namespace vta {

std::string sha256(std::string_view data);  // in hexadecimal

}  // namespace vta
