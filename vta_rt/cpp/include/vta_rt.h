/* libvta_rt: sound for silent video, from a bundle that export.build wrote. The C interface.
 *
 *     vta_bundle *bundle;
 *     vta_result *result;
 *     if (vta_bundle_open("engines/demo", NULL, &bundle) == VTA_OK &&
 *         vta_generate_file(bundle, "clip.mp4", NULL, &result) == VTA_OK)
 *       vta_result_save(result, "clip.wav");
 *
 * A function that can fail returns a vta_status. What it made, a bundle or a result, is a handle that also holds the
 * sentence that says what went wrong, and is there after a failure, too (NULL only where memory ran out): close it in any
 * case. A bundle may be used by any number of threads at the same time, a result by one at a time. Texts are UTF-8. Structures
 * begin with their size, so that later versions can add fields: make them with the VTA_..._INIT macros.
 */
#ifndef VTA_RT_H
#define VTA_RT_H

#include <stddef.h>
#include <stdint.h>

#if defined(VTA_RT_STATIC)
#define VTA_API
#elif defined(_WIN32)
#ifdef VTA_RT_BUILD
#define VTA_API __declspec(dllexport)
#else
#define VTA_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define VTA_API __attribute__((visibility("default")))
#else
#define VTA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum vta_status {
  VTA_OK = 0,
  VTA_ERROR_OPTION = 1,  /* an argument outside what is allowed */
  VTA_ERROR_VIDEO = 2,   /* a video file that cannot be read */
  VTA_ERROR_BUNDLE = 3,  /* a bundle that is missing, altered or of a newer version */
  VTA_ERROR_BACKEND = 4, /* a backend that is not available here, or a device that failed */
  VTA_ERROR_OUTPUT = 5,  /* a result that cannot be written */
  VTA_ERROR_MODEL = 6,   /* the model could not be run, or gave values that are not finite */
  VTA_CANCELLED = 7,     /* the progress callback asked for it */
  VTA_ERROR_MEMORY = 8,
  VTA_ERROR_INTERNAL = 9 /* a defect of this library */
} vta_status;

typedef struct vta_bundle vta_bundle;
typedef struct vta_result vta_result;

/* The library's version, such as "0.1.0". */
VTA_API const char *vta_version(void);

/* ---- bundles ---- */

typedef struct vta_open_options {
  size_t size;
  const char *backend; /* auto, cpu, cuda, or the name of a provider of ONNX Runtime; NULL for auto */
  int32_t threads;     /* processor cores to use; 0 for all */
} vta_open_options;
#define VTA_OPEN_OPTIONS_INIT {sizeof(vta_open_options), NULL, 0}

/* Opens a bundle's folder and checks its files. options may be NULL. */
VTA_API vta_status vta_bundle_open(const char *folder, const vta_open_options *options, vta_bundle **bundle);
VTA_API void vta_bundle_close(vta_bundle *bundle); /* NULL is allowed */
/* What went wrong when it was opened; empty if nothing did. */
VTA_API const char *vta_bundle_message(const vta_bundle *bundle);
/* What runs the graphs, for people. */
VTA_API const char *vta_bundle_backend(const vta_bundle *bundle);

typedef struct vta_facts {
  size_t size;
  double seconds;            /* of sound in one window */
  int32_t sample_rate;       /* samples a second, mono */
  double frame_rate;         /* frames that the model takes a second */
  int32_t frame_size;        /* side of its square frames, in pixels */
  int32_t frame_count;       /* of a window */
  int32_t token_width;
  int32_t latent_shape[3];   /* channels, time, frequency */
  int32_t steps;             /* of the denoising, by default */
  double guidance;           /* by default */
  int32_t takes_prompts;
} vta_facts;
#define VTA_FACTS_INIT {sizeof(vta_facts), 0, 0, 0, 0, 0, 0, {0, 0, 0}, 0, 0, 0}
VTA_API vta_status vta_bundle_facts(const vta_bundle *bundle, vta_facts *facts);

/* ---- sound ---- */

/* Called as the work proceeds, from the thread that asked for it; stage is frames, encode, denoise, decode or vocode.
 * Anything but 0 stops the work, which then fails with VTA_CANCELLED. */
typedef int (*vta_progress)(void *user, const char *stage, int32_t done, int32_t total);

/* Called with what every stage made: frames (uint8 [T, H, W, 3]), and float32 tokens [N, D], latents [C, T, F] after every
 * step, mel [1, frames, bins] and wave [samples]. The values last as long as the call. */
typedef void (*vta_observe)(void *user, const char *name, const int64_t *shape, size_t rank, const void *values);

typedef struct vta_generate_options {
  size_t size;
  uint64_t seed;       /* of the noise: the same seed, the same sound */
  int32_t steps;       /* 0 for the bundle's own, as are the NULLs and NANs below */
  const char *solver;  /* ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, unipc or lcm */
  const char *spacing; /* leading, linspace, trailing or karras */
  double guidance;     /* negative for the bundle's own */
  double guidance_low, guidance_high; /* noise levels between which steps are guided; both 0 for the bundle's own */
  vta_progress progress;              /* may be NULL */
  vta_observe observe;                /* may be NULL */
  void *user;                         /* handed to both */
} vta_generate_options;
#define VTA_GENERATE_OPTIONS_INIT \
  {sizeof(vta_generate_options), 0, 0, NULL, NULL, -1.0, 0.0, 0.0, NULL, NULL, NULL}

/* Frames that a program holds: RGB, 3 bytes a pixel, any size. */
typedef struct vta_frames {
  size_t size;
  const uint8_t *const *rows; /* count addresses: the first byte of each frame */
  size_t stride;              /* bytes from one row of pixels to the next; 0 for 3 * width */
  int32_t count, width, height;
  const double *times; /* count: seconds at which each appears, the first at 0, rising */
  double duration;     /* seconds until the last one disappears */
} vta_frames;
#define VTA_FRAMES_INIT {sizeof(vta_frames), NULL, 0, 0, 0, 0, NULL, 0.0}

/* Make sound for a video file, or for frames. It is as long as the video, but no longer than the model's window. */
VTA_API vta_status vta_generate_file(const vta_bundle *bundle, const char *path, const vta_generate_options *options,
                                     vta_result **result);
VTA_API vta_status vta_generate_frames(const vta_bundle *bundle, const vta_frames *frames,
                                       const vta_generate_options *options, vta_result **result);

VTA_API void vta_result_close(vta_result *result); /* NULL is allowed */
/* What went wrong last with this result; empty if nothing did. */
VTA_API const char *vta_result_message(const vta_result *result);
/* The sound: mono samples, full scale is [-1, 1]; NULL and 0 after a failure. They last as long as the result. */
VTA_API const float *vta_result_samples(const vta_result *result);
VTA_API size_t vta_result_count(const vta_result *result);
VTA_API int32_t vta_result_rate(const vta_result *result); /* samples a second */

/* Write it as a .wav of 16-bit samples, completely or not at all. */
VTA_API vta_status vta_result_save(vta_result *result, const char *path);
/* Write the video of a file, its packets copied, with this sound to an .mp4, .mov, .mkv or .webm. */
VTA_API vta_status vta_result_mux(vta_result *result, const char *video, const char *path);

#ifdef __cplusplus
}
#endif
#endif
