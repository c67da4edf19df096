package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// Prometheus serves the newest values of runs at /metrics. It serves numbers, names of
// runs and nothing else. It is safe for concurrent use.
type Prometheus struct {
	server *http.Server
	addr   net.Addr
	done   sync.WaitGroup

	mu   sync.Mutex
	runs map[string]*exposed
}

// exposed are the newest values of a run.
type exposed struct {
	step        *orchestrator.StepMetrics
	evaluations map[string]orchestrator.Evaluation // by split
	phase       watchdog.Phase
}

// ServePrometheus listens at an address, for example "127.0.0.1:9464". A zero log is silent.
func ServePrometheus(addr string, log zerolog.Logger) (*Prometheus, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serve metrics at %s: %w\n  hint: run.prometheus = \"127.0.0.1:0\" takes a free port",
			addr, err)
	}
	p := &Prometheus{addr: listener.Addr(), runs: map[string]*exposed{}}
	registry := prometheus.NewRegistry()
	registry.MustRegister(p, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{Timeout: scrapeTimeout}))
	p.server = &http.Server{Handler: mux, ReadTimeout: scrapeTimeout, WriteTimeout: 2 * scrapeTimeout,
		IdleTimeout: time.Minute, MaxHeaderBytes: 1 << 16}
	p.done.Go(func() {
		if err := p.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Warn().Err(err).Msg("metrics are not served any more; the run goes on")
		}
	})
	return p, nil
}

// scrapeTimeout bounds how long an answer may take.
const scrapeTimeout = 10 * time.Second

// URL is where Prometheus finds the metrics.
func (p *Prometheus) URL() string { return "http://" + p.addr.String() + "/metrics" }

// Close stops the server.
func (p *Prometheus) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := p.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) { // a client does not read its answer
		err = p.server.Close()
	}
	p.done.Wait()
	return err
}

// Run returns the observer of a run.
func (p *Prometheus) Run(name string) orchestrator.Observer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runs[name] == nil {
		p.runs[name] = &exposed{evaluations: map[string]orchestrator.Evaluation{}}
	}
	return prometheusRun{p, p.runs[name]}
}

// prometheusRun tells the server what happens in a run.
type prometheusRun struct {
	server *Prometheus
	run    *exposed
}

// Phase implements [orchestrator.Observer].
func (r prometheusRun) Phase(phase watchdog.Phase) {
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	r.run.phase = phase
}

// Step implements [orchestrator.Observer].
func (r prometheusRun) Step(m orchestrator.StepMetrics) {
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	r.run.step = &m
}

// Evaluation implements [orchestrator.Observer].
func (r prometheusRun) Evaluation(e orchestrator.Evaluation) {
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	r.run.evaluations[e.Kind] = e
}

// Prompt implements [orchestrator.Observer].
func (r prometheusRun) Prompt(orchestrator.PromptReload) {}

// prometheusName is the name of one of our metrics.
func prometheusName(name string) string { return "empo2_" + strings.ReplaceAll(name, "/", "_") }

func description(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheusName(name), help, append([]string{"run"}, labels...), nil)
}

var (
	stepDesc        = description("step", "newest committed step")
	phaseDesc       = description("phase", "1 for the phase that the run is in", "phase")
	phaseDoneDesc   = description("phase_done", "units of the phase that are done", "phase", "unit")
	phaseTotalDesc  = description("phase_total", "units of the phase in all", "phase", "unit")
	phaseSinceDesc  = description("phase_start_seconds", "when the phase began, seconds since 1970", "phase")
	phaseETADesc    = description("phase_eta_seconds", "seconds until the phase ends, as far as it is known", "phase")
	phaseLengthDesc = description("phase_seconds", "seconds of a phase in the newest step", "phase")
)

// Describe implements [prometheus.Collector]. The values of a run come and go, so it
// describes none.
func (p *Prometheus) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (p *Prometheus) Collect(out chan<- prometheus.Metric) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, run := range p.runs {
		gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, append([]string{name}, labels...)...)
		}
		run.collect(gauge, time.Now())
	}
}

// collect hands over the values of a run.
func (r *exposed) collect(gauge func(*prometheus.Desc, float64, ...string), now time.Time) {
	if phase := r.phase; phase.Name != "" {
		gauge(phaseDesc, 1, phase.Name)
		gauge(phaseSinceDesc, float64(phase.Since.UnixMilli())/1000, phase.Name)
		if phase.Total > 0 {
			gauge(phaseDoneDesc, float64(phase.Done), phase.Name, phase.Unit)
			gauge(phaseTotalDesc, float64(phase.Total), phase.Name, phase.Unit)
		}
		if left, known := phase.ETA(now); known {
			gauge(phaseETADesc, left.Seconds(), phase.Name)
		}
	}
	if m := r.step; m != nil {
		gauge(stepDesc, float64(m.Step))
		for _, metric := range Metrics {
			if v, ok := metric.of(*m); ok {
				gauge(description(metric.Name, metric.Meaning), v)
			}
		}
		lengths := map[string]float64{}
		for _, phase := range m.Phases {
			lengths[phase.Name] += phase.Seconds
		}
		for phase, seconds := range lengths {
			gauge(phaseLengthDesc, seconds, phase)
		}
	}
	for split, e := range r.evaluations {
		for _, metric := range evaluationMetrics {
			gauge(description("evaluation_"+metric.name, "newest evaluation: "+metric.meaning, "split"), metric.of(e), split)
		}
	}
}
