#include <doctest/doctest.h>

#include "pipeline.hpp"
#include "sha256.hpp"
#include "text.hpp"

TEST_CASE("numbers and texts are shown as Python shows them") {
  CHECK(vta::show(16.0) == "16.0");
  CHECK(vta::show(1e-5) == "1e-05");
  CHECK(vta::show(0.0001) == "0.0001");
  CHECK(vta::show(1e15) == "1000000000000000.0");
  CHECK(vta::show(1e16) == "1e+16");
  CHECK(vta::show(std::string_view("it's")) == "\"it's\"");
  CHECK(vta::show(std::string_view("a\nb")) == "'a\\nb'");
  CHECK(vta::general(16777216) == "1.67772e+07");
  CHECK(vta::one_line(" a \n  b ") == "a b");
}

TEST_CASE("sha256 of the standard's examples") {
  CHECK(vta::sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(vta::sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(vta::sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(vta::sha256(std::string(1'000'000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("frames are counted in exact fractions of a second") {
  vta::FrameTimes times(29.97, 5.12);
  CHECK(times.total() == 154);
  CHECK(times.count_until(100, 2997) == 1);  // the next frame appears just when it is taken
  CHECK(times.count_until(1001, 30000) == 0);  // and here 33 billionths of a second earlier
  CHECK(times.count_until(1002, 30000) == 1);
  CHECK(times.count_until(100, 1) == 152);
  CHECK(times.is_done());
}
