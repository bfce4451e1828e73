// The noise schedule and every solver as a table of coefficients, as in vta_rt/schedule.py: the same formulas in double.
//
// With x the latents, y the network's output after guidance and d the data prediction, one row is one step:
//
//     d      = p * x + q * y
//     x_next = a * x + b * d + c * d_previous + s * noise
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace vta {

struct NoiseSchedule {
  int64_t train_timesteps = 1000;
  std::string beta_schedule = "scaled_linear";
  double beta_start = 0.00085;
  double beta_end = 0.012;
  std::string prediction_type = "v_prediction";
  std::string timestep_spacing = "leading";
  int64_t steps_offset = 1;

  void check() const;  // raises OptionError
};

struct TableRow {
  double timestep = 0, p = 0, q = 0, a = 0, b = 0, c = 0, s = 0;
};
using Table = std::vector<TableRow>;

extern const std::vector<std::string> SOLVERS, TIMESTEP_SPACINGS;

// Raises OptionError for an unknown solver or spacing, or a number of steps that is not possible.
Table solver_table(const std::string& name, const NoiseSchedule& schedule, int64_t steps,
                   const std::optional<std::string>& spacing = std::nullopt);

constexpr double UNGUIDED = 1.0;  // the guidance scale at which guidance has no effect

// What the denoising loop runs, row by row.
struct SamplingPlan {
  Table table;
  std::vector<double> guidance_scales;

  bool is_guided() const;
};

// How latents are sampled; a bundle's defaults, of which a call may replace single values.
struct Sampling {
  int64_t steps = 25;
  std::string solver = "dpmpp_2m";
  double guidance = 3.0;
  std::optional<std::string> spacing;
  std::optional<std::pair<double, double>> guidance_interval;  // noise levels sigma / alpha

  SamplingPlan plan(const NoiseSchedule& schedule) const;  // raises OptionError
};

struct SamplingOptions {
  std::optional<int64_t> steps;
  std::optional<std::string> solver;
  std::optional<double> guidance;
  std::optional<std::string> spacing;
  std::optional<std::pair<double, double>> guidance_interval;

  Sampling over(Sampling defaults) const;
};

}  // namespace vta
