package vllm

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

// Versions are published and retired and servers killed and restarted in any
// order. A served version must give its own answers, and other versions must
// give ErrPolicyGone.
func TestVersionsGiveTheirOwnAnswers(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		x := &experiment{t: t, served: make(map[int]sampler.Policy), dead: -1}
		var urls []string
		for range 2 {
			s := fakeserver.NewVLLM(policy)
			s.MaxLoras = 99
			defer s.Close()
			x.servers, urls = append(x.servers, s), append(urls, s.URL)
		}
		b, err := Open(t.Context(), config(urls))
		if err != nil {
			rt.Fatal(err)
		}
		defer b.Close()
		x.backend = b
		rt.Repeat(map[string]func(*rapid.T){
			"publish": x.publish, "retire": x.retire, "sample": x.sample,
			"kill": x.kill, "revive": x.revive, "restart": x.restart,
		})
		for _, p := range x.served {
			x.check(rt, p)
		}
	})
}

// An experiment publishes and retires versions on two servers that die and restart.
type experiment struct {
	t       *testing.T
	backend *Backend
	servers []*fakeserver.VLLM
	served  map[int]sampler.Policy
	next    int // version to publish
	dead    int // index of the dead server; -1: none
}

// check samples from p. The answer must be the version's own, or an error if p is
// not served.
func (x *experiment) check(rt *rapid.T, p sampler.Policy) {
	c, err := x.backend.Sample(x.t.Context(), p, testRequest)
	if _, ok := x.served[p.Version]; !ok {
		if !errors.Is(err, sampler.ErrPolicyGone) {
			rt.Fatalf("%s is retired: %v", p.Name, err)
		}
		return
	}
	if want := policy.Sample(p.Version, testRequest); err != nil || !slices.Equal(c.IDs, want.IDs) || c.Policy != p {
		rt.Fatalf("%s: %+v %v, want %+v", p.Name, c, err, want)
	}
}

func (x *experiment) publish(rt *rapid.T) {
	a := sampler.Adapter{}
	if x.next > 0 {
		a = fakeserver.WriteAdapter(x.t, policy, x.next)
	}
	p, err := x.backend.Publish(x.t.Context(), a)
	if err != nil {
		rt.Fatal(err)
	}
	x.served[x.next] = p
	x.next++
}

func (x *experiment) retire(rt *rapid.T) {
	version := rapid.IntRange(0, x.next).Draw(rt, "version")
	if p, ok := x.served[version]; ok {
		delete(x.served, version)
		if err := x.backend.Retire(x.t.Context(), p); err != nil {
			rt.Fatal(err)
		}
	}
}

func (x *experiment) sample(rt *rapid.T) {
	x.check(rt, x.backend.Policy(rapid.IntRange(0, x.next).Draw(rt, "version")))
}

func (x *experiment) kill(rt *rapid.T) {
	if x.dead < 0 {
		x.dead = rapid.IntRange(0, 1).Draw(rt, "server")
		x.servers[x.dead].Kill()
	}
}

func (x *experiment) revive(*rapid.T) {
	if x.dead >= 0 {
		x.servers[x.dead].Revive()
		x.dead = -1
	}
}

func (x *experiment) restart(rt *rapid.T) {
	if x.dead < 0 {
		x.servers[rapid.IntRange(0, 1).Draw(rt, "server")].Revive()
	}
}
