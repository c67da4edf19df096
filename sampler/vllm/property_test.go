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
		var servers []*fakeserver.VLLM
		var urls []string
		for range 2 {
			s := fakeserver.NewVLLM(policy)
			s.MaxLoras = 99
			defer s.Close()
			servers, urls = append(servers, s), append(urls, s.URL)
		}
		b, err := Open(t.Context(), config(urls))
		if err != nil {
			rt.Fatal(err)
		}
		defer b.Close()
		served, next, dead := map[int]sampler.Policy{}, 0, -1
		sample := func(p sampler.Policy) {
			c, err := b.Sample(t.Context(), p, testRequest)
			if _, ok := served[p.Version]; !ok {
				if !errors.Is(err, sampler.ErrPolicyGone) {
					rt.Fatalf("%s is retired: %v", p.Name, err)
				}
				return
			}
			if want := policy.Sample(p.Version, testRequest); err != nil || !slices.Equal(c.IDs, want.IDs) || c.Policy != p {
				rt.Fatalf("%s: %+v %v, want %+v", p.Name, c, err, want)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"publish": func(rt *rapid.T) {
				a := sampler.Adapter{}
				if next > 0 {
					a = fakeserver.WriteAdapter(t, policy, next)
				}
				p, err := b.Publish(t.Context(), a)
				if err != nil {
					rt.Fatal(err)
				}
				served[next] = p
				next++
			},
			"retire": func(rt *rapid.T) {
				version := rapid.IntRange(0, next).Draw(rt, "version")
				if p, ok := served[version]; ok {
					delete(served, version)
					if err := b.Retire(t.Context(), p); err != nil {
						rt.Fatal(err)
					}
				}
			},
			"sample": func(rt *rapid.T) { sample(b.Backend.Policy(rapid.IntRange(0, next).Draw(rt, "version"))) },
			"kill": func(rt *rapid.T) {
				if dead < 0 {
					dead = rapid.IntRange(0, 1).Draw(rt, "server")
					servers[dead].Kill()
				}
			},
			"revive": func(*rapid.T) {
				if dead >= 0 {
					servers[dead].Revive()
					dead = -1
				}
			},
			"restart": func(rt *rapid.T) {
				if dead < 0 {
					servers[rapid.IntRange(0, 1).Draw(rt, "server")].Revive()
				}
			},
		})
		for _, p := range served {
			sample(p)
		}
	})
}
