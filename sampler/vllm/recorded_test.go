package vllm

import (
	"net/http"
	"strings"
	"testing"
)

func post(t testing.TB, url string) {
	t.Helper()
	r, err := http.Post(url, "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
}
