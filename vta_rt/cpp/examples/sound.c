/* Sound for a video file: example_c BUNDLE VIDEO OUT.wav */
#include <stdio.h>
#include <vta_rt.h>

int main(int count, char **arguments) {
  vta_bundle *bundle = NULL;
  vta_result *result = NULL;
  vta_generate_options options = VTA_GENERATE_OPTIONS_INIT;
  int failed = 1;
  if (count != 4) {
    fprintf(stderr, "usage: %s BUNDLE VIDEO OUT.wav\n", arguments[0]);
    return 2;
  }
  options.seed = 1;
  if (vta_bundle_open(arguments[1], NULL, &bundle) != VTA_OK) {
    fprintf(stderr, "error: %s\n", vta_bundle_message(bundle));
  } else if (vta_generate_file(bundle, arguments[2], &options, &result) != VTA_OK ||
             vta_result_save(result, arguments[3]) != VTA_OK) {
    fprintf(stderr, "error: %s\n", vta_result_message(result));
  } else {
    printf("%s: %lu samples at %d Hz, made with vta_rt %s\n", arguments[3], (unsigned long)vta_result_count(result),
           (int)vta_result_rate(result), vta_version());
    failed = 0;
  }
  vta_result_close(result);
  vta_bundle_close(bundle);
  return failed;
}
