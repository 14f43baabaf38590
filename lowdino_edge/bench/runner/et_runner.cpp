// Measures ExecuTorch programs where Python or torch is not: latency in turns, then the embeddings of bank and queries.
//
//   et_runner --threads T --warmup W --runs R --burst B --size S --dim D[,D...] --query FILE N [--bank FILE N]
//             --out DIR m0.pte m1.pte ...
//
// FILE holds N uint8 images, one after the other, RGB, CHW. DIR gets z<i>_query.f32, z<i>_bank.f32 and, last and whole,
// result.json, as bench/devices/folder.py describes them; a model goes by its file name there. What is wrong with one
// model is in its row; anything else ends the program with 1 and one line on stderr. The times are taken by the rules of
// bench/agent/timing.py: change both together.

#include <dirent.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/platform/platform.h>

#include "machine.h"

// The wheel has the thread pool's library and not its header.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t n);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::aten::ScalarType;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::Program;
using Clock = std::chrono::steady_clock;

constexpr double kStable = 0.05;
constexpr size_t kWindow = 5;
constexpr double kMaxWarmupS = 10.0;

// Ends the program: not one model's fault.
struct Fatal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Images {
  std::string path;
  long n = 0;
};

struct Options {
  int threads = 1, warmup = 10, runs = 100, burst = 5, size = 0;
  std::vector<size_t> dims;
  Images query, bank;
  std::string out;
  std::vector<std::string> models;
};

struct Model {
  std::string path, name, error, delegate = "cpu";
  size_t dim = 0;
  std::unique_ptr<Module> module;
  double load_ms = 0;
  int warmup = 0;
  std::vector<double> samples;
};

// ---- what ExecuTorch logs while it fails

std::vector<std::string> logged;

void keep_log(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* text, size_t n) {
  if ((level == kError || level == kFatal) && logged.size() < 20) logged.emplace_back(text, n);
}

std::string why(const std::string& what, Error error) {
  std::string missing;
  for (const std::string& line : logged) {
    size_t at = line.find("issing operator: ");
    if (at == std::string::npos) continue;
    std::string name = line.substr(at + strlen("issing operator: "));
    if (name[0] == '[') name = name.substr(std::min(name.size(), name.find(' ') + 1));
    missing += (missing.empty() ? "" : ", ") + name;
  }
  if (!missing.empty()) return what + ": there is no kernel for " + missing;
  std::string said = logged.empty() ? "" : " (" + logged.front() + ")";
  return what + ": " + executorch::runtime::to_string(error) + said;
}

// ---- one model

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

void load(Model& m) {
  logged.clear();
  const Clock::time_point start = Clock::now();
  m.module = std::make_unique<Module>(m.path, Module::LoadMode::Mmap);
  Error error = m.module->load(Program::Verification::InternalConsistency);
  if (error == Error::Ok) error = m.module->load_method("forward");
  m.load_ms = ms_since(start);
  if (error != Error::Ok) throw std::runtime_error(why("executorch cannot load it", error));
}

// Input float32 (1, 3, size, size), output dim x float32: anything else would read or write past a buffer.
void check(Model& m, int size) {
  const auto meta = m.module->method_meta("forward");
  if (!meta.ok()) throw std::runtime_error(why("its description cannot be read", meta.error()));
  const auto in = meta->input_tensor_meta(0);
  const auto out = meta->output_tensor_meta(0);
  if (!in.ok() || !out.ok() || meta->num_inputs() != 1) throw std::runtime_error("it does not take one tensor and give one");
  const std::vector<int> wanted = {1, 3, size, size};
  const auto sizes = in->sizes();
  if (in->scalar_type() != ScalarType::Float || !std::equal(sizes.begin(), sizes.end(), wanted.begin(), wanted.end())) {
    std::string found;
    for (int s : sizes) found += (found.empty() ? "" : ", ") + std::to_string(s);
    throw std::runtime_error("it takes (" + found + "), not float32 (1, 3, " + std::to_string(size) + ", " +
                             std::to_string(size) + ")");
  }
  if (out->scalar_type() != ScalarType::Float || out->nbytes() != m.dim * sizeof(float))
    throw std::runtime_error("it gives " + std::to_string(out->nbytes()) + " bytes, not " + std::to_string(m.dim) +
                             " float32 numbers");
  for (size_t i = 0; i < meta->num_backends(); ++i)
    if (strcmp(meta->get_backend_name(i).get(), "XnnpackBackend") == 0) m.delegate = "xnnpack";
}

const float* embed(Model& m, const TensorPtr& x) {
  auto found = m.module->forward(x);
  if (!found.ok()) throw std::runtime_error(why("it cannot be run", found.error()));
  return found->at(0).toTensor().const_data_ptr<float>();  // the method's own buffer, until its next call
}

// Runs `work` on each model that is still whole; what it throws becomes that model's error.
void each(std::vector<Model>& models, const std::function<void(Model&)>& work) {
  for (Model& m : models) {
    if (!m.error.empty()) continue;
    logged.clear();
    try {
      work(m);
    } catch (const Fatal&) {
      throw;
    } catch (const std::exception& e) {
      m.error = e.what();
      m.module.reset();
    }
  }
}

// ---- timing, by the rules of bench/agent/timing.py

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  const size_t n = v.size();
  return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

bool stable(const std::vector<double>& s) {
  if (s.size() < 2 * kWindow) return false;
  const double before = median({s.end() - 2 * kWindow, s.end() - kWindow}), now = median({s.end() - kWindow, s.end()});
  return std::fabs(now - before) <= kStable * before;
}

double call_ms(Model& m, const TensorPtr& x) {
  const Clock::time_point start = Clock::now();
  embed(m, x);
  return ms_since(start);
}

int warm_up(Model& m, const TensorPtr& x, int at_least) {
  std::vector<double> samples;
  const Clock::time_point start = Clock::now();
  while (samples.size() < size_t(5) * at_least) {
    samples.push_back(call_ms(m, x));
    if (samples.size() < size_t(at_least)) continue;
    if (stable(samples) || ms_since(start) > 1000 * kMaxWarmupS) break;
  }
  return int(samples.size());
}

// A line at most every second, so that the other side knows that this one is alive.
void progress(const std::string& text) {
  static Clock::time_point last;
  if (ms_since(last) < 1000) return;
  last = Clock::now();
  printf("%s\n", text.c_str());
  fflush(stdout);
}

void time_in_turns(std::vector<Model>& models, const TensorPtr& x, const Options& o) {
  const long rounds = std::max(1L, std::lrint(double(o.runs) / o.burst));
  for (long r = 1; r <= rounds; ++r) {
    each(models, [&](Model& m) {
      progress("latency: round " + std::to_string(r) + " of " + std::to_string(rounds));
      const long now = o.runs * r / rounds - long(m.samples.size());
      if (now > 0) embed(m, x);
      for (long i = 0; i < now; ++i) m.samples.push_back(call_ms(m, x));
    });
  }
}

// ---- images in, embeddings out

std::ifstream open_images(const Images& images, size_t bytes_each) {
  std::ifstream in(images.path, std::ios::binary);
  struct stat info = {};
  if (!in || stat(images.path.c_str(), &info) != 0) throw Fatal("cannot read " + images.path);
  if (images.n < 1 || size_t(info.st_size) != images.n * bytes_each)
    throw Fatal(images.path + " does not hold " + std::to_string(images.n) + " images");
  return in;
}

void read_image(std::ifstream& in, std::vector<uint8_t>& raw, float* x) {
  if (!in.read(reinterpret_cast<char*>(raw.data()), std::streamsize(raw.size()))) throw Fatal("an images file was cut short");
  for (size_t i = 0; i < raw.size(); ++i) x[i] = float(raw[i]) / 255.0f;
}

void embed_all(Model& m, const Images& images, const TensorPtr& x, const std::string& out) {
  float* pixels = x->mutable_data_ptr<float>();
  std::vector<uint8_t> raw(size_t(x->numel()));
  std::ifstream in = open_images(images, raw.size());
  std::ofstream file(out, std::ios::binary);
  for (long i = 0; i < images.n; ++i) {
    progress(m.name + ": image " + std::to_string(i + 1) + " of " + std::to_string(images.n));
    read_image(in, raw, pixels);
    file.write(reinterpret_cast<const char*>(embed(m, x)), std::streamsize(m.dim * sizeof(float)));
  }
  file.close();
  if (!file) throw Fatal("cannot write " + out + ": " + strerror(errno));
}

// ---- result.json

void describe_model(std::ostream& json, const Model& m, int threads) {
  json << "{\"name\": " << quoted(m.name) << ", ";
  if (!m.error.empty()) {
    json << "\"error\": " << quoted(m.error) << "}";
    return;
  }
  json << "\"samples_ms\": [";
  for (size_t i = 0; i < m.samples.size(); ++i) json << (i ? ", " : "") << m.samples[i];
  json << "], \"warmup\": " << m.warmup << ", \"load_ms\": " << m.load_ms << ", \"threads\": " << threads
       << ", \"delegate\": " << quoted(m.delegate) << ", \"runtime\": " << quoted("executorch " ET_VERSION ", C++ runner")
       << ", \"embedded\": true, \"notes\": []}";
}

void write_result(const Options& o, const std::vector<Model>& models, int threads, double before, double after) {
  utsname os = {};
  uname(&os);
  std::ostringstream json;
  json.precision(9);
  json << "{\"info\": {";
  describe_cpu(json, os.machine);
  json << ", \"machine\": " << quoted(os.machine) << ", \"platform\": " << quoted(std::string(os.sysname) + "-" + os.release)
       << ", \"cores\": " << cores() << ", \"thermal\": ";
  if (std::isnan(before) || std::isnan(after)) json << "null";
  else json << "{\"before\": " << before << ", \"after\": " << after << "}";
  json << "}, \"models\": [";
  size_t measured = 0;
  for (size_t i = 0; i < models.size(); ++i) {
    json << (i ? ", " : "");
    describe_model(json, models[i], threads);
    measured += models[i].error.empty();
  }
  json << "], \"peak_rss_bytes\": " << peak_rss_bytes() << ", \"interleaved\": " << measured << "}\n";
  const std::string path = o.out + "/result.json", tmp = path + ".tmp";
  std::ofstream file(tmp);
  file << json.str();
  file.close();
  if (!file || rename(tmp.c_str(), path.c_str()) != 0) throw Fatal("cannot write " + path + ": " + strerror(errno));
}

// ---- the command line

int number(const std::string& flag, const char* text, int least) {
  char* end = nullptr;
  const long value = text ? strtol(text, &end, 10) : 0;
  if (!text || *end || end == text || value < least || value > 1000000000)
    throw Fatal(flag + " takes a whole number, at least " + std::to_string(least));
  return int(value);
}

Options parse(char** argv) {
  Options o;
  while (const char* word = *++argv) {
    const std::string flag = word;
    if (flag.rfind("--", 0) != 0) {
      o.models.push_back(flag);
      continue;
    }
    const char* value = *++argv;
    if (!value) throw Fatal(flag + " takes a value");
    if (flag == "--threads") o.threads = number(flag, value, 1);
    else if (flag == "--warmup") o.warmup = number(flag, value, 0);
    else if (flag == "--runs") o.runs = number(flag, value, 1);
    else if (flag == "--burst") o.burst = number(flag, value, 1);
    else if (flag == "--size") o.size = number(flag, value, 1);
    else if (flag == "--out") o.out = value;
    else if (flag == "--dim") {
      std::istringstream list(value);
      for (std::string one; std::getline(list, one, ',');) o.dims.push_back(size_t(number(flag, one.c_str(), 1)));
    } else if (flag == "--query" || flag == "--bank") {
      const char* count = *++argv;
      (flag == "--bank" ? o.bank : o.query) = {value, number(flag, count, 1)};
    } else throw Fatal("there is no " + flag);
  }
  if (o.models.empty() || o.out.empty() || !o.size || !o.query.n) throw Fatal("models, --size, --query and --out are needed");
  if (o.dims.size() == 1) o.dims.resize(o.models.size(), o.dims[0]);
  if (o.dims.size() != o.models.size()) throw Fatal("--dim takes one number, or one for each model");
  return o;
}

void run(const Options& o) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  pool->_unsafe_reset_threadpool(uint32_t(o.threads));
  const int threads = int(pool->get_thread_count());
  std::vector<Model> models(o.models.size());
  for (size_t i = 0; i < models.size(); ++i) {
    models[i].path = o.models[i];
    models[i].name = o.models[i].substr(o.models[i].rfind('/') + 1);
    models[i].dim = o.dims[i];
  }
  auto x = executorch::extension::empty({1, 3, o.size, o.size}, ScalarType::Float);
  std::vector<uint8_t> raw(size_t(x->numel()));
  if (o.bank.n) open_images(o.bank, raw.size());
  std::ifstream first = open_images(o.query, raw.size());
  read_image(first, raw, x->mutable_data_ptr<float>());
  const double before = thermal_c();
  // Loaded twice, as the host does: the first time also reads the file from the disk.
  each(models, [&](Model& m) { load(m), load(m), check(m, o.size); });
  each(models, [&](Model& m) { m.warmup = warm_up(m, x, o.warmup); });
  time_in_turns(models, x, o);
  const double after = thermal_c();
  each(models, [&](Model& m) {
    const std::string z = o.out + "/z" + std::to_string(&m - models.data());
    embed_all(m, o.query, x, z + "_query.f32");
    if (o.bank.n) embed_all(m, o.bank, x, z + "_bank.f32");
  });
  write_result(o, models, threads, before, after);
}

// The libraries that came along (see __init__.py) are mapped by now; they need no names on the disk any more.
void remove_libraries() {
  const char* root = getenv("LOWDINO_RUNNER_LIBS");
  DIR* dir = root ? opendir(root) : nullptr;
  if (!dir) return;
  while (const dirent* file = readdir(dir)) unlink((std::string(root) + "/" + file->d_name).c_str());
  closedir(dir);
  rmdir(root);
}

}  // namespace

int main(int, char** argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // nothing stays running where the connection was lost
  remove_libraries();
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep_log, __FILE__));
  try {
    run(parse(argv));
  } catch (const std::exception& e) {
    fprintf(stderr, "et_runner: %s\n", e.what());
    return 1;
  }
  return 0;
}
