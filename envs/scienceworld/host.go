package scienceworld

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
)

// A host is a process with simulators.
type host interface {
	// open makes a simulator. It is called by one goroutine at a time.
	open(ctx context.Context) (*simulator, error)
	// kill ends the host at once. It may be called twice.
	kill()
	// close ends the host and lets it clean up. It may be called twice.
	close()
}

var _ host = (*jvmHost)(nil)

// A jvmHost is a JVM with one or several simulators. With isolate each simulator has
// its own class loader and its own gateway. Without it the JVM has one simulator.
type jvmHost struct {
	*jvm
	control  *gateway
	jar      jar
	isolate  bool
	reads    Reads
	deadline Deadlines

	mu       sync.Mutex
	gateways []*gateway // every connection to this JVM
}

// launchHost starts a JVM and connects to it.
func launchHost(ctx context.Context, l launcher, isolate bool, reads Reads, d Deadlines) (*jvmHost, error) {
	j, err := l.launch(ctx)
	if err != nil {
		return nil, err
	}
	control, err := dial(ctx, j.port, d.Start)
	if err != nil {
		j.kill()
		return nil, err
	}
	return &jvmHost{jvm: j, control: control, jar: l.jar, isolate: isolate, reads: reads, deadline: d,
		gateways: []*gateway{control}}, nil
}

func (h *jvmHost) kill() {
	h.disconnect()
	h.jvm.kill()
}

func (h *jvmHost) close() {
	h.disconnect()
	h.jvm.close()
}

// disconnect closes the connections. A call that waits on one of them fails.
func (h *jvmHost) disconnect() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, g := range h.gateways {
		g.close() // an error means that it is already closed
	}
	h.gateways = nil
}

// interfaceClass is the class of the simulator.
const interfaceClass = "scienceworld.runtime.pythonapi.PythonInterface"

func (h *jvmHost) open(ctx context.Context) (*simulator, error) {
	if err := h.restoreTypeIDs(h.jar.typeIDs); err != nil {
		return nil, err
	}
	sim, err := h.construct(ctx)
	if err != nil {
		return nil, fmt.Errorf("construct the simulator: %w", errors.Join(err, h.said()))
	}
	// The first load initialises the classes and the table of type ids. After
	// that the simulator does not use the working directory.
	if err := sim.load(ctx, "boil", 0, ""); err != nil {
		return nil, err
	}
	return sim, nil
}

func (h *jvmHost) construct(ctx context.Context) (*simulator, error) {
	if !h.isolate {
		id, err := h.object(ctx, newCommand(interfaceClass))
		return newSimulator(h.control, id, h.reads, h.deadline), err
	}
	id, err := h.loadIsolated(ctx)
	if err != nil {
		return nil, err
	}
	port, err := h.serve(ctx, id)
	if err != nil {
		return nil, err
	}
	gw, err := dial(ctx, port, h.deadline.Start)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.gateways = append(h.gateways, gw)
	h.mu.Unlock()
	return newSimulator(gw, entryPoint, h.reads, h.deadline), nil
}

// loadIsolated creates a simulator in a new class loader for the jar. The parent of
// the loader has the classes of the platform only, so two simulators share no class.
func (h *jvmHost) loadIsolated(ctx context.Context) (objectID, error) {
	jarURL := (&url.URL{Scheme: "file", Path: filepath.ToSlash(h.jar.path)}).String()
	location, err := h.object(ctx, newCommand("java.net.URL", jarURL))
	if err != nil {
		return "", err
	}
	list, err := h.object(ctx, newArrayCommand("java.net.URL", 1))
	if err != nil {
		return "", err
	}
	if _, err := h.control.call(ctx, h.deadline.Start, setArrayCommand(list, 0, location)); err != nil {
		return "", err
	}
	system, err := h.object(ctx, callCommand(class("java.lang.ClassLoader"), "getSystemClassLoader"))
	if err != nil {
		return "", err
	}
	platform, err := h.object(ctx, callCommand(system, "getParent"))
	if err != nil {
		return "", err
	}
	loader, err := h.object(ctx, newCommand("java.net.URLClassLoader", list, platform))
	if err != nil {
		return "", err
	}
	loaded, err := h.object(ctx, callCommand(loader, "loadClass", interfaceClass))
	if err != nil {
		return "", err
	}
	id, err := h.object(ctx, callCommand(loaded, "newInstance"))
	if err != nil {
		return "", err
	}
	return id, h.free(ctx, location, list, system, platform, loader, loaded)
}

// serve starts a gateway for one simulator. The gateway numbers its objects
// independently of other gateways.
func (h *jvmHost) serve(ctx context.Context, id objectID) (port int, err error) {
	server, err := h.object(ctx, newCommand("py4j.GatewayServer", id, 0))
	if err != nil {
		return 0, err
	}
	if _, err := h.control.call(ctx, h.deadline.Start, callCommand(server, "start")); err != nil {
		return 0, err
	}
	v, err := h.control.call(ctx, h.deadline.Start, callCommand(server, "getListeningPort"))
	if err != nil {
		return 0, err
	}
	port, ok := v.(int)
	if !ok {
		return 0, fmt.Errorf("the port of the simulator's gateway is of type %T", v)
	}
	return port, h.free(ctx, server, id)
}

// object sends a command and returns the object in the reply.
func (h *jvmHost) object(ctx context.Context, command string) (objectID, error) {
	v, err := h.control.call(ctx, h.deadline.Start, command)
	if err != nil {
		return "", err
	}
	id, ok := v.(objectID)
	if !ok {
		return "", fmt.Errorf("the reply to %s is of type %T, want an object", shorten(command), v)
	}
	return id, nil
}

func (h *jvmHost) free(ctx context.Context, ids ...objectID) error {
	commands := make([]string, len(ids))
	for i, id := range ids {
		commands[i] = freeCommand(id)
	}
	_, err := h.control.do(ctx, h.deadline.Start, commands...)
	return err
}
