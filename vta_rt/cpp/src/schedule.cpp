#include "schedule.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "error.hpp"
#include "text.hpp"

namespace vta {

const std::vector<std::string> SOLVERS = {"ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "lcm"};
const std::vector<std::string> TIMESTEP_SPACINGS = {"leading", "linspace", "trailing", "karras"};

namespace {

using Floats = std::vector<double>;

const std::vector<std::string> BETA_SCHEDULES = {"scaled_linear", "linear"};
const std::vector<std::string> PREDICTION_TYPES = {"v_prediction", "epsilon"};
constexpr int64_t MAX_TRAIN_TIMESTEPS = 1'000'000;
constexpr double CLEAN = -1;  // the timestep of clean data
constexpr double RHO = 7.0;   // of the Karras spacing
constexpr double LCM_DATA_STD = 0.5, LCM_TIMESTEP_SCALE = 10.0;

double square(double value) { return value * value; }

Floats linspace(double start, double stop, int64_t count) {
  Floats values(static_cast<size_t>(count), start);
  const double step = count > 1 ? (stop - start) / static_cast<double>(count - 1) : 0.0;
  for (size_t index = 0; index < values.size(); ++index) values[index] = static_cast<double>(index) * step + start;
  if (count > 1) values.back() = stop;
  return values;
}

// alpha^2 and what follows from it at every timestep of training; alpha is 1 and sigma 0 below zero.
class Levels {
 public:
  explicit Levels(const NoiseSchedule& schedule) {
    const bool is_linear = schedule.beta_schedule == "linear";
    Floats betas = is_linear ? linspace(schedule.beta_start, schedule.beta_end, schedule.train_timesteps)
                             : linspace(std::sqrt(schedule.beta_start), std::sqrt(schedule.beta_end), schedule.train_timesteps);
    double product = 1.0;
    for (const double beta : betas) alphas_cumprod_.push_back(product *= 1 - (is_linear ? beta : square(beta)));
  }

  double alpha(double timestep) const { return std::sqrt(alpha_squared(timestep)); }
  double sigma(double timestep) const { return std::sqrt(1 - alpha_squared(timestep)); }
  double noise_level(double timestep) const { return sigma(timestep) / alpha(timestep); }

 private:
  double alpha_squared(double timestep) const {
    return timestep < 0 ? 1.0 : alphas_cumprod_[static_cast<size_t>(timestep)];
  }

  Floats alphas_cumprod_;
};

// The points between which a solver steps: timesteps [steps], alpha and sigma [steps + 1] with clean data last.
struct Grid {
  Floats timesteps, alpha, sigma;

  size_t size() const { return timesteps.size(); }
  double log_snr(size_t index) const { return std::log(alpha[index] / sigma[index]); }
};

Grid karras_grid(const NoiseSchedule& schedule, int64_t steps) {
  const Levels levels(schedule);
  Floats trained;
  for (int64_t step = 0; step < schedule.train_timesteps; ++step) {
    trained.push_back(std::log(levels.noise_level(static_cast<double>(step))));
  }
  const double low = std::pow(levels.noise_level(0), 1 / RHO);
  const double high = std::pow(levels.noise_level(static_cast<double>(schedule.train_timesteps - 1)), 1 / RHO);
  Grid grid;
  for (const double part : linspace(0, 1, steps)) {
    const double level = std::pow(high + part * (low - high), RHO), logarithm = std::log(level);
    // The position among the trained levels, linear in the logarithm, as numpy.interp has it.
    const auto above = std::upper_bound(trained.begin(), trained.end(), logarithm);
    double nearest = 0;
    if (above == trained.end()) {
      nearest = static_cast<double>(trained.size() - 1);
    } else if (above != trained.begin()) {
      const double under = *(above - 1);
      nearest = static_cast<double>(above - trained.begin() - 1) + (logarithm - under) / (*above - under);
    }
    grid.timesteps.push_back(std::nearbyint(nearest));
    grid.alpha.push_back(1 / std::sqrt(1 + square(level)));
    grid.sigma.push_back(level * grid.alpha.back());
  }
  grid.alpha.push_back(1.0);
  grid.sigma.push_back(0.0);
  return grid;
}

Floats place_timesteps(const NoiseSchedule& schedule, int64_t steps, const std::string& spacing, bool drop_last) {
  const int64_t total = schedule.train_timesteps, count = drop_last ? steps + 1 : steps;
  Floats points;
  if (spacing == "leading") {
    for (int64_t index = count - 1; index >= 0; --index) {
      points.push_back(static_cast<double>(index * (total / count) + schedule.steps_offset));
    }
  } else if (spacing == "linspace") {
    points = linspace(0, static_cast<double>(total - 1), count);
    std::reverse(points.begin(), points.end());
    for (double& point : points) point = std::nearbyint(point);
  } else {
    const double start = static_cast<double>(total), stride = -start / static_cast<double>(steps);
    const double step = (start + stride) - start;  // as numpy.arange computes it
    for (int64_t index = 0; index < steps; ++index) {
      points.push_back(std::nearbyint(start + static_cast<double>(index) * step) - 1);
    }
  }
  points.resize(static_cast<size_t>(steps));
  bool falls = points[0] < static_cast<double>(total);
  for (size_t index = 1; index < points.size(); ++index) falls = falls && points[index] < points[index - 1];
  if (!falls) {
    throw OptionError("steps " + show(steps) + ": too many for " + spacing + " spacing of " + show(total) +
                      " timesteps with steps_offset " + show(schedule.steps_offset) + ", use fewer steps or another spacing");
  }
  return points;
}

// The grid of a solver and, for solvers that need them elsewhere, the levels.
class Maker {
 public:
  Maker(const NoiseSchedule& schedule, int64_t steps, std::string spacing)
      : schedule_(schedule), steps_(steps), spacing_(std::move(spacing)), levels_(schedule) {
    check_integer("steps", steps, 1, schedule.train_timesteps);
    check_choice("timestep_spacing", spacing_, TIMESTEP_SPACINGS);
  }

  Grid grid(bool drop_last = false) const {
    if (spacing_ == "karras") return karras_grid(schedule_, steps_);
    Grid grid{place_timesteps(schedule_, steps_, spacing_, drop_last), {}, {}};
    Floats stops = grid.timesteps;
    stops.push_back(CLEAN);
    for (const double stop : stops) {
      grid.alpha.push_back(levels_.alpha(stop));
      grid.sigma.push_back(levels_.sigma(stop));
    }
    return grid;
  }

  Table ddim() const {
    const Grid stops = grid();
    Table table = first_order(stops);
    if (spacing_ == "karras") return table;
    // Every step goes down by the same number of timesteps, as in diffusers, though the next row's may lie lower.
    for (size_t row = 0; row < table.size(); ++row) {
      const double below = stops.timesteps[row] - static_cast<double>(schedule_.train_timesteps / steps_);
      const double after = row + 1 < table.size() ? below : CLEAN;
      step_to(table[row], stops, row, levels_.alpha(after), levels_.sigma(after));
    }
    return table;
  }

  Table ancestral(const Grid& stops) const {
    Table table = data_prediction(stops);
    for (size_t row = 0; row < table.size(); ++row) {
      const double alpha_after = stops.alpha[row + 1];
      const double variance = square(stops.sigma[row]), variance_after = square(stops.sigma[row + 1]);
      const double ratio = stops.alpha[row] / alpha_after, beta = 1 - square(ratio);
      table[row].a = ratio * variance_after / variance;
      table[row].b = alpha_after * beta / variance;
      table[row].s = std::sqrt(beta * variance_after / variance);
    }
    return table;
  }

  Table first_order(const Grid& stops) const {
    Table table = data_prediction(stops);
    for (size_t row = 0; row < table.size(); ++row) step_to(table[row], stops, row, stops.alpha[row + 1], stops.sigma[row + 1]);
    return table;
  }

  // d extrapolated to the middle of the step in log-SNR, for all rows but the first and the last.
  static Table second_order(Table table, const Grid& stops) {
    for (size_t row = 1; row + 1 < table.size(); ++row) {
      const double h = stops.log_snr(row + 1) - stops.log_snr(row), before = stops.log_snr(row) - stops.log_snr(row - 1);
      const double extrapolation = table[row].b * h / (2 * before);
      table[row].b += extrapolation;
      table[row].c = -extrapolation;
    }
    return table;
  }

  Table unipc() const {
    const Grid stops = grid(true);
    Table table = first_order(stops);
    for (size_t row = 1; row < table.size(); ++row) {
      const double correction = stops.alpha[row] * -std::expm1(-(stops.log_snr(row) - stops.log_snr(row - 1))) / 2;
      const double moved = table[row].a * correction;
      table[row].b += moved;
      table[row].c = -moved;
    }
    return table;
  }

  Table lcm() const {
    const Grid stops = grid();
    Table table = data_prediction(stops);
    for (size_t row = 0; row < table.size(); ++row) {
      const double scaled = stops.timesteps[row] * LCM_TIMESTEP_SCALE, alpha_after = stops.alpha[row + 1];
      const double variance = square(LCM_DATA_STD), sum = square(scaled) + variance;
      table[row].a = alpha_after * variance / sum;
      table[row].b = alpha_after * scaled / std::sqrt(sum);
      table[row].s = stops.sigma[row + 1];
    }
    return table;
  }

 private:
  Table data_prediction(const Grid& stops) const {
    Table table(stops.size());
    const bool is_v = schedule_.prediction_type == "v_prediction";
    for (size_t row = 0; row < table.size(); ++row) {
      const double alpha = stops.alpha[row], sigma = stops.sigma[row];
      table[row].timestep = stops.timesteps[row];
      table[row].p = is_v ? alpha : 1 / alpha;
      table[row].q = is_v ? -sigma : -sigma / alpha;
    }
    return table;
  }

  // x_next = alpha' * d + sigma' * (x - alpha * d) / sigma: the noise found in x is kept.
  static void step_to(TableRow& row, const Grid& stops, size_t index, double alpha_after, double sigma_after) {
    row.a = sigma_after / stops.sigma[index];
    row.b = alpha_after - row.a * stops.alpha[index];
  }

  const NoiseSchedule& schedule_;
  int64_t steps_;
  std::string spacing_;
  Levels levels_;
};

}  // namespace

void NoiseSchedule::check() const {
  check_integer("train_timesteps", train_timesteps, 1, MAX_TRAIN_TIMESTEPS);
  check_choice("beta_schedule", beta_schedule, BETA_SCHEDULES);
  for (const auto& [name, beta] : {std::pair{"beta_start", beta_start}, std::pair{"beta_end", beta_end}}) {
    if (!(beta > 0 && beta < 1)) {
      throw OptionError(std::string(name) + " is " + show(beta) + ", a number between 0 and 1 is needed");
    }
  }
  if (beta_end < beta_start) {
    throw OptionError("beta_end is " + show(beta_end) + ", at least beta_start, " + show(beta_start) + ", is needed");
  }
  check_choice("prediction_type", prediction_type, PREDICTION_TYPES);
  check_choice("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS);
  check_integer("steps_offset", steps_offset, 0, train_timesteps - 1);
}

Table solver_table(const std::string& name, const NoiseSchedule& schedule, int64_t steps,
                   const std::optional<std::string>& spacing) {
  check_choice("solver", name, SOLVERS);
  const std::string own = name == "lcm" ? "trailing" : schedule.timestep_spacing;
  const Maker maker(schedule, steps, spacing.value_or(own));
  if (name == "ddpm") return maker.ancestral(maker.grid());
  if (name == "ddim") return maker.ddim();
  if (name == "unipc") return maker.unipc();
  if (name == "lcm") return maker.lcm();
  const Grid stops = maker.grid(true);
  return Maker::second_order(name == "dpmpp_2m" ? maker.first_order(stops) : maker.ancestral(stops), stops);
}

bool SamplingPlan::is_guided() const {
  return std::any_of(guidance_scales.begin(), guidance_scales.end(), [](double scale) { return scale != UNGUIDED; });
}

SamplingPlan Sampling::plan(const NoiseSchedule& schedule) const {
  constexpr double MAX_GUIDANCE = std::numeric_limits<float>::max();  // graphs compute in float32
  if (!(guidance >= 0 && guidance <= MAX_GUIDANCE)) {
    throw OptionError("guidance is " + show(guidance) + ", a number from 0 to 3.4e+38 is needed");
  }
  SamplingPlan plan{solver_table(solver, schedule, steps, spacing), {}};
  plan.guidance_scales.assign(plan.table.size(), guidance);
  if (!guidance_interval) return plan;
  const auto [low, high] = *guidance_interval;
  if (!(low >= 0 && low < high)) {
    throw OptionError("guidance_interval is [" + show(low) + ", " + show(high) +
                      "], two noise levels are needed: 0 or more, and a higher one");
  }
  for (size_t row = 0; row < plan.table.size(); ++row) {
    const double p = plan.table[row].p, q = plan.table[row].q;
    const double level = schedule.prediction_type == "v_prediction" ? -q / p : -q;
    if (level < low || level > high) plan.guidance_scales[row] = UNGUIDED;
  }
  return plan;
}

Sampling SamplingOptions::over(Sampling defaults) const {
  if (steps) defaults.steps = *steps;
  if (solver) defaults.solver = *solver;
  if (guidance) defaults.guidance = *guidance;
  if (spacing) defaults.spacing = spacing;
  if (guidance_interval) defaults.guidance_interval = guidance_interval;
  return defaults;
}

}  // namespace vta
