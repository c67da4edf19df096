package webshop

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// client speaks the protocol like AgentGym's client.
type client struct {
	t    *testing.T
	base string
}

func serve(t *testing.T) client {
	c := shopConfig()
	c.MaxSteps = 1 // the protocol has no limit
	server := httptest.NewServer(NewHandler(openFamily(t, c)))
	t.Cleanup(server.Close)
	return client{t, server.URL}
}

// call returns the status and the decoded answer. Without a body it sends a GET.
func (c client) call(path, body string) (int, any) {
	c.t.Helper()
	get := func() (*http.Response, error) { return http.Get(c.base + path) }
	if body != "" {
		get = func() (*http.Response, error) {
			return http.Post(c.base+path, "application/json", strings.NewReader(body))
		}
	}
	res, err := get()
	if err != nil {
		c.t.Error(err)
		return 0, nil
	}
	defer res.Body.Close()
	var v any
	dec := json.NewDecoder(res.Body)
	dec.UseNumber() // ids are whole numbers
	if err := dec.Decode(&v); err != nil && res.StatusCode == http.StatusOK {
		c.t.Errorf("%s: %v", path, err)
	}
	return res.StatusCode, v
}

func (c client) ok(path, body string) any {
	c.t.Helper()
	status, v := c.call(path, body)
	if status != http.StatusOK {
		c.t.Fatalf("%s %s = %d %v", path, body, status, v)
	}
	return v
}

func TestAgentGymProtocol(t *testing.T) {
	c := serve(t)
	if got := c.ok("/", ""); got != "ok" {
		t.Errorf("/ = %v", got)
	}
	id, ok := c.ok("/create", "{}").(json.Number)
	if !ok {
		t.Fatal("/create does not answer a number")
	}
	first := c.ok("/reset", fmt.Sprintf(`{"env_idx":%v,"session_id":3}`, id)).([]any)
	const start = "WebShop [SEP] Instruction: [SEP] Find me "
	if len(first) != 2 || first[1] != nil || !strings.HasPrefix(first[0].(string), start) {
		t.Errorf("/reset = %v", first)
	}
	query := fmt.Sprintf("?env_idx=%v", id)
	want := any(map[string]any{"has_search_bar": true, "clickables": []any{"search"}})
	if diff := cmp.Diff(want, c.ok("/available_actions"+query, "")); diff != "" {
		t.Errorf("/available_actions (-want +got):\n%s", diff)
	}
	if got := c.ok("/observation"+query, ""); got != first[0] {
		t.Errorf("/observation = %v, want %v", got, first[0])
	}
	instruction := c.ok("/instruction_text"+query, "").(string)
	if !strings.HasPrefix(instruction, "Instruction: Find me ") {
		t.Errorf("/instruction_text = %q", instruction)
	}
	c.ok("/step", fmt.Sprintf(`{"env_idx":%v,"action":"search[wool rug]"}`, id))
	c.ok("/step", fmt.Sprintf(`{"env_idx":%v,"action":"click[rug0000001]"}`, id))
	state := c.ok("/state"+query, "").(map[string]any)
	if state["url"] != baseURL+"item_page/3/RUG0000001/wool+rug/1/{}" || state["instruction_text"] != instruction ||
		!strings.Contains(state["html"].(string), "<label>4x6 ft</label>") {
		t.Errorf("/state = %v", state)
	}
	bought := c.ok("/step", fmt.Sprintf(`{"env_idx":%v,"action":"click[buy now]"}`, id)).(map[string]any)
	if bought["done"] != true || bought["info"] != nil || !strings.HasPrefix(bought["state"].(string), "Thank you") {
		t.Errorf("the last /step = %v", bought)
	}
	if diff := cmp.Diff(any([]any{id}), c.ok("/list_envs", "")); diff != "" {
		t.Errorf("/list_envs (-want +got):\n%s", diff)
	}
	for _, closed := range []bool{true, false} {
		if got := c.ok("/close", fmt.Sprintf(`{"env_idx":%v}`, id)).(map[string]any); got["closed"] != closed {
			t.Errorf("/close = %v, want %v", got, closed)
		}
	}
}

func TestServerRefuses(t *testing.T) {
	c := serve(t)
	id := c.ok("/create", "{}")
	f := func(path, body string, wantStatus int, want string) {
		t.Helper()
		status, v := c.call(path, body)
		if status != wantStatus || !strings.Contains(fmt.Sprint(v), want) {
			t.Errorf("%s %.60s = %d %v, want %d with %q", path, body, status, v, wantStatus, want)
		}
	}
	f("/step", `{"env_idx":-5,"action":"x"}`, 404, "/create")
	f("/observation?env_idx=-5", "", 404, "/create")
	f("/observation", "", 422, "env_idx")
	f("/step", `{"action":"x"}`, 422, "env_idx")
	f("/step", fmt.Sprintf(`{"env_idx":%v}`, id), 422, "action")
	f("/step", `{"env_idx":`, 422, "JSON")
	f("/step", `{"env_idx":1,"action":"`+strings.Repeat("x", maxBody)+`"}`, 422, "too large")
	f("/reset", fmt.Sprintf(`{"env_idx":%v,"session_id":99999}`, id), 422, "no goal 99999")
	f("/step", "", 405, "")
	f("/nowhere", "", 404, "")
}

func TestServerSessionsAreSeparate(t *testing.T) {
	c := serve(t)
	var done sync.WaitGroup
	for n := range 8 {
		done.Go(func() {
			id := c.ok("/create", "{}")
			first := c.ok("/reset", fmt.Sprintf(`{"env_idx":%v,"session_id":%d}`, id, n)).([]any)[0]
			c.ok("/step", fmt.Sprintf(`{"env_idx":%v,"action":"search[mug]"}`, id))
			back := c.ok("/step", fmt.Sprintf(`{"env_idx":%v,"action":"click[back to search]"}`, id)).(map[string]any)
			if back["state"] != first {
				t.Errorf("session %d: back to search = %v, want %v", n, back["state"], first)
			}
		})
	}
	done.Wait()
}

func TestServerReusesTheOldestSession(t *testing.T) {
	s := &server{family: openFamily(t, shopConfig()), random: newPyRandom(1), shoppers: make(map[int]*shopper)}
	ids := make([]int, maxShoppers+2)
	for i := range ids {
		var err error
		if ids[i], err = s.add(); err != nil {
			t.Fatal(err)
		}
	}
	if ids[maxShoppers] != ids[0] || ids[maxShoppers+1] != ids[1] || len(s.shoppers) != maxShoppers {
		t.Errorf("sessions %v, want the first two again", ids[maxShoppers:])
	}
}
