// What et_runner says about the machine: CPU, cores, temperature.
#pragma once

#include <dirent.h>
#include <sched.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <ostream>
#include <string>

inline double thermal_c() {  // the hottest zone; NAN where none can be read
  double hottest = NAN;
  const std::string root = "/sys/class/thermal/";
  if (DIR* dir = opendir(root.c_str())) {
    while (const dirent* zone = readdir(dir)) {
      double value;
      std::ifstream in(root + zone->d_name + "/temp");
      if (strncmp(zone->d_name, "thermal_zone", 12) == 0 && in >> value) hottest = std::fmax(hottest, value / 1000);
    }
    closedir(dir);
  }
  return hottest;
}

inline std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c < 0x20 || c > 0x7e ? '?' : char(c);
  }
  return out + "\"";
}

// cpu and int8_dot from /proc/cpuinfo, as bench/cpu.py reads them.
inline void describe_cpu(std::ostream& json, const std::string& machine) {
  std::ifstream in("/proc/cpuinfo");
  std::string line, model, hardware, flags;
  while (std::getline(in, line)) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string key = line.substr(0, line.find_last_not_of(" \t", colon - 1) + 1);
    const std::string value = colon + 2 <= line.size() ? line.substr(colon + 2) : "";
    if (key == "model name" && model.empty()) model = value;
    if (key == "Hardware") hardware = value;
    if ((key == "flags" || key == "Features") && flags.empty()) flags = " " + value + " ";
  }
  const std::string name = !model.empty() ? model : !hardware.empty() ? hardware : machine;
  json << "\"cpu\": " << quoted(name) << ", \"int8_dot\": ";
  if (flags.empty()) {
    json << "null";
    return;
  }
  std::string found;
  for (const char* flag : {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
    if (flags.find(" " + std::string(flag) + " ") != std::string::npos) found += (found.empty() ? "" : ", ") + quoted(flag);
  json << "[" << found << "]";
}

// Not getrusage's ru_maxrss: that also remembers the process that started this one.
inline std::string peak_rss_bytes() {
  std::ifstream in("/proc/self/status");
  for (std::string word; in >> word;) {
    long kib;
    if (word == "VmHWM:" && in >> kib) return std::to_string(kib * 1024);
  }
  return "null";
}

inline int cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return int(sysconf(_SC_NPROCESSORS_ONLN));
}
