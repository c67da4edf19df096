package process

import (
	"os"
	"runtime"
	"slices"
	"strings"
)

// Needs are groups of environment variables that a child inherits in addition to those
// that every child gets. Combine them with |.
type Needs int

const (
	// Network is for children that download: proxies and certificates.
	Network Needs = 1 << iota
	// Libraries is for children that compute: GPUs, threads, allocators, compilers.
	Libraries
	// Models is for children that read models: folders and switches of Hugging Face.
	Models
	// Pip is for pip: its own settings, which may hold the password of an index.
	Pip
)

// everyChild are variables that every child inherits: where programs, files and shared
// libraries are.
var everyChild = []string{
	"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TMP", "TEMP", "TZ", "XDG_*",
	"LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_*", "NIX_LD", "NIX_LD_LIBRARY_PATH", "GLIBC_TUNABLES",
	"SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "USERPROFILE", "APPDATA", "LOCALAPPDATA",
	"PROGRAMDATA", "PROGRAMFILES", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE",
}

// groups are the variables of [Needs]. A name that ends in * is a prefix.
var groups = map[Needs][]string{
	Network: {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "http_proxy", "https_proxy", "all_proxy",
		"ftp_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"},
	Libraries: {"CUDA_*", "CUDNN_*", "CUBLAS_*", "NVIDIA_*", "NCCL_*", "GPU_*", "HIP_*", "HSA_*", "ROCR_*", "ROCM_*",
		"ZE_*", "SYCL_*", "ONEAPI_*", "MTL_*", "METAL_*", "OMP_*", "GOMP_*", "KMP_*", "MKL_*", "BLIS_*", "OPENBLAS_*",
		"VECLIB_*", "NUMEXPR_*", "ATEN_*", "TORCH*", "PYTORCH_*", "TRITON_*", "XFORMERS_*", "BNB_*", "BITSANDBYTES_*",
		"GGML_*", "MALLOC_*", "THP_*", "MIMALLOC_*", "TOKENIZERS_PARALLELISM", "RAYON_*", "CC", "CXX", "CONDA_PREFIX",
		"VIRTUAL_ENV"},
	Models: {"HF_*", "HUGGINGFACE_*", "TRANSFORMERS_*", "DO_NOT_TRACK"},
	Pip:    {"PIP_*", "NETRC", "CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS"},
}

// notInherited are variables that no child inherits, because they would change how it
// runs although the configuration does not mention them.
var notInherited = []string{
	// These make pip install packages outside the Python environment.
	"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_DRY_RUN",
}

// secretWords are words in the names of variables that hold secrets. A prefix never
// covers such a variable; Pip's settings have other names.
var secretWords = []string{"KEY", "APIKEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "CREDENTIALS",
	"AUTH"}

// withLoopback joins lists of hosts that are reached without a proxy, and adds
// the loopback. "*" means every host, but only if it is the whole list.
func withLoopback(lists []string) string {
	hosts := slices.DeleteFunc(slices.Concat(lists, []string{"127.0.0.1", "localhost", "::1"}),
		func(s string) bool { return s == "" })
	if slices.Contains(hosts, "*") {
		return "*"
	}
	return strings.Join(hosts, ",")
}

// Environ returns the environment for a child. Of ours it has only the variables that
// every child needs, those of the given needs, and those named in more. An entry of
// more is NAME, which is inherited, or NAME=VALUE, or a prefix such as VLLM_*. A
// variable whose name says that it holds a secret is inherited only if it is named in
// full. In addition
//   - the locale is UTF-8 with English messages, which hints match;
//   - connections to the loopback use no proxy.
func Environ(needs Needs, more ...string) []string {
	allowed := slices.Clone(everyChild)
	for group, names := range groups {
		if needs&group != 0 {
			allowed = append(allowed, names...)
		}
	}
	var env, direct, set []string
	for _, entry := range more {
		if strings.Contains(entry, "=") {
			set = append(set, entry)
		} else {
			allowed = append(allowed, entry)
		}
	}
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		if name == "NO_PROXY" || name == "no_proxy" {
			direct = append(direct, value)
			continue
		}
		if inherits(name, allowed) && (!slices.Contains(notInherited, name) || slices.Contains(more, name)) {
			env = append(env, kv)
		}
	}
	hosts := withLoopback(direct)
	env = append(env,
		"LC_ALL="+utf8Locale(), "PYTHONUTF8=1", "PYTHONUNBUFFERED=1", "PIP_USER=0",
		"NO_PROXY="+hosts, "no_proxy="+hosts)
	return append(env, set...)
}

// inherits reports whether a list of names and prefixes covers a variable.
func inherits(name string, allowed []string) bool {
	return slices.ContainsFunc(allowed, func(pattern string) bool {
		prefix, isPrefix := strings.CutSuffix(pattern, "*")
		if !isPrefix {
			return pattern == name || runtime.GOOS == "windows" && strings.EqualFold(pattern, name)
		}
		return strings.HasPrefix(name, prefix) && (prefix == "PIP_" || !HoldsSecret(name))
	})
}

// HoldsSecret reports whether the name of a variable says that it holds a secret.
func HoldsSecret(name string) bool {
	return slices.ContainsFunc(strings.Split(strings.ToUpper(name), "_"), func(word string) bool {
		return slices.Contains(secretWords, word)
	})
}

// secretsOf returns the values of the secrets among the entries of a child's
// environment.
func secretsOf(env, entries []string) []string {
	var secrets []string
	for _, entry := range entries {
		name, value, set := strings.Cut(entry, "=")
		if !HoldsSecret(name) {
			continue
		}
		for _, kv := range env {
			if inherited, ok := strings.CutPrefix(kv, name+"="); ok && !set {
				value = inherited
			}
		}
		secrets = append(secrets, value)
	}
	return secrets
}

// utf8Locale returns a locale that every such operating system has.
func utf8Locale() string {
	if runtime.GOOS == "darwin" {
		return "en_US.UTF-8"
	}
	return "C.UTF-8"
}
