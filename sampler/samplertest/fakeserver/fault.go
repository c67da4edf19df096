package fakeserver

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/empo2/empo2/sampler/samplertest"
)

// replacesAnswer answers with a fault that all fakes share and reports true. It reports false if the fake must answer
// itself. A request that hangs ends with its context or when closing is closed. busy sends the server's own refusal.
func replacesAnswer(w http.ResponseWriter, r *http.Request, fault samplertest.Fault, closing <-chan struct{},
	busy func()) bool {
	switch fault {
	case samplertest.FaultHang:
		select {
		case <-r.Context().Done():
		case <-closing:
		}
	case samplertest.FaultBusy:
		busy()
	case samplertest.FaultGarbage:
		_, _ = w.Write([]byte("<html>proxy</html>"))
	case samplertest.FaultFlood:
		_, _ = fmt.Fprintf(w, `{"padding":"%s"}`, strings.Repeat("x", 2<<20))
	default:
		return false
	}
	return true
}
