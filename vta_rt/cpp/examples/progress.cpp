// Sound for a video file, with progress: example_cpp BUNDLE VIDEO OUT.wav
#include <iostream>
#include <vta_rt.hpp>

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "usage: " << arguments[0] << " BUNDLE VIDEO OUT.wav\n";
    return 2;
  }
  try {
    const vta_rt::Bundle bundle(arguments[1]);
    vta_rt::Options options;
    options.seed = 1;
    options.progress = [](const std::string& stage, int done, int total) {
      std::cout << stage << ' ' << done << " of " << total << '\n';
      return true;  // go on
    };
    vta_rt::Sound sound = bundle.generate(arguments[2], options);
    sound.save(arguments[3]);
    std::cout << arguments[3] << ": " << sound.size() << " samples on " << bundle.backend() << '\n';
  } catch (const vta_rt::Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
