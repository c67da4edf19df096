package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/empo2/empo2/envs/webshop"
	"github.com/empo2/empo2/orchestrator/config"
)

type envCmd struct {
	Serve serveCmd `cmd:"" help:"Serve an environment over HTTP."`
}

// Help is shown by empo2 env --help.
func (envCmd) Help() string { return serveCmd{}.Help() }

type serveCmd struct {
	common
	Name string `arg:"" enum:"webshop" help:"Name of the environment: webshop."`
	Addr string `default:"127.0.0.1:36001" help:"Address to listen on."`
}

// Help is shown by empo2 env serve --help.
func (serveCmd) Help() string {
	return `Serves WebShop with AgentGym's protocol, for example to other training programs.

Example:
  empo2 env serve webshop --set env.webshop.data=/data/webshop --addr 127.0.0.1:36001`
}

func (cmd *serveCmd) Run(ctx context.Context, out *console) error {
	c, err := cmd.load("env.name=" + cmd.Name)
	if err != nil {
		return err
	}
	family, err := openFamily(ctx, opening{config: c, log: out.logger(cmd.Verbose)})
	if err != nil {
		return err
	}
	defer family.Close()
	listener, err := net.Listen("tcp", cmd.Addr)
	if err != nil {
		return &config.Error{Place: "--addr " + cmd.Addr, Msg: err.Error(),
			Hint: "choose a free port, or 127.0.0.1:0 for any"}
	}
	server := &http.Server{
		Handler:           webshop.NewHandler(family.(*webshop.Family)),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	out.note("webshop listens on http://%s (AgentGym's protocol); Ctrl-C ends it", listener.Addr())
	select {
	case err := <-done:
		return fmt.Errorf("serve webshop: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), 5*time.Second,
		errors.New("requests did not end within 5s"))
	defer cancel()
	return server.Shutdown(stop)
}
