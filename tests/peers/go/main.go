// Go's net/http on both sides, HTTP/1.1 and HTTP/2 by prior knowledge, for stories that compare it with and without Weft:
//
//	peer serve <port>
//	peer ask <host> <server>=<port>...     a server whose name ends in h2 is spoken HTTP/2 to
package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"
)

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2])
	}
	for _, server := range os.Args[3:] {
		name, port, _ := strings.Cut(server, "=")
		ask(name, "http://"+os.Args[2]+":"+port)
	}
}

// fields in one order: a map has none.
func fields(mark string, header http.Header) []string {
	var lines []string
	for name, values := range header {
		for _, value := range values {
			lines = append(lines, mark+name+": "+value)
		}
	}
	sort.Strings(lines)
	return lines
}

func serve(port string) {
	server := &http.Server{Addr: "0.0.0.0:" + port, Handler: http.HandlerFunc(handle), Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() {
		time.Sleep(100 * time.Millisecond)
		fmt.Println("listening")
	}()
	fmt.Println(server.ListenAndServe())
	os.Exit(1)
}

func handle(w http.ResponseWriter, r *http.Request) {
	saw := func(how string) {
		op := r.RequestURI[strings.LastIndex(r.RequestURI, "op=")+3:]
		lines := []string{"@" + op, r.Method + " " + r.RequestURI + " " + r.Proto, "host " + r.Host, "length " + strconv.FormatInt(r.ContentLength, 10)}
		lines = append(lines, fields("> ", r.Header)...)
		lines = append(lines, "body "+how)
		lines = append(lines, fields("trailer ", r.Trailer)...)
		fmt.Println(strings.Join(lines, "\n"))
	}
	if r.URL.Path == "/early" {
		saw("early")
		w.Header().Set("Connection", "close")
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		return
	}
	body, err := io.ReadAll(r.Body)
	saw(fmt.Sprint(len(body), " ", err))
	switch {
	case r.URL.Path == "/chunked":
		io.WriteString(w, "some")
		w.(http.Flusher).Flush()
		io.WriteString(w, "more")
	case r.URL.Path == "/trailers":
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "somemore")
		w.Header().Set("X-Sum", "12")
	case r.URL.Path == "/trailers-late":
		io.WriteString(w, "somemore")
		w.(http.Flusher).Flush()
		w.Header().Set(http.TrailerPrefix+"X-Late", "1")
	case r.URL.Path == "/hints":
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "hinted\n")
	case r.URL.Path == "/empty":
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == "/abort":
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "some")
		w.(http.Flusher).Flush()
		time.Sleep(50 * time.Millisecond)
		panic(http.ErrAbortHandler)
	case r.URL.Path == "/close":
		w.Header().Set("Connection", "close")
		io.WriteString(w, "closing\n")
	case strings.HasPrefix(r.URL.Path, "/status/"):
		code, _ := strconv.Atoi(r.URL.Path[8:])
		w.WriteHeader(code)
		io.WriteString(w, "status\n")
	default:
		w.Header().Set("X-Train-Case", "1")
		w.Header()["x-lower"] = []string{"2"}
		w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
		fmt.Fprintf(w, "read %d\n", len(body))
	}
}

type operation struct {
	name, method, path string
	body               io.Reader
	header             map[string]string
}

type plain struct{ io.Reader }

func operations() []operation {
	text := func(text string) io.Reader { return strings.NewReader(text) }
	return []operation{
		{"get", "GET", "/echo", nil, map[string]string{"X-Order-B": "1", "X-Order-A": "2"}},
		{"post", "POST", "/echo", text("body"), nil},
		{"chunked-up", "POST", "/echo", plain{text("somemore")}, nil},
		{"trailers-up", "POST", "/echo", plain{text("some")}, map[string]string{"X-Up": "4"}},
		{"put", "PUT", "/echo", text("put"), nil},
		{"delete", "DELETE", "/echo", nil, nil},
		{"get-chunked", "GET", "/echo", plain{text("somemore")}, nil},
		{"head", "HEAD", "/echo", nil, nil},
		{"expect", "POST", "/echo", text("body"), map[string]string{"Expect": "100-continue"}},
		{"odd", "GET", "/echo/%3C%22%3E/a%2Fb;c=d", nil, nil},
		{"chunked", "GET", "/chunked", nil, nil},
		{"trailers", "GET", "/trailers", nil, nil},
		{"trailers-late", "GET", "/trailers-late", nil, nil},
		{"hints", "GET", "/hints", nil, nil},
		{"404", "GET", "/status/404", nil, nil},
		{"299", "GET", "/status/299", nil, nil},
		{"empty", "GET", "/empty", nil, nil},
		{"early", "POST", "/early", bytes.NewReader(make([]byte, 2000000)), nil},
		{"close", "GET", "/close", nil, nil},
		{"old", "GET", "/old", nil, nil},
		{"abort", "GET", "/abort", nil, nil},
		{"last", "GET", "/echo", nil, nil},
	}
}

func ask(name, base string) {
	transport := &http.Transport{Protocols: new(http.Protocols), ExpectContinueTimeout: 5 * time.Second}
	if strings.HasSuffix(name, "h2") {
		transport.Protocols.SetUnencryptedHTTP2(true)
	} else {
		transport.Protocols.SetHTTP1(true)
	}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	for _, op := range operations() {
		fmt.Println("@" + name + ".go." + op.name)
		request, err := http.NewRequest(op.method, base+op.path+"?op="+name+".go."+op.name, op.body)
		if err != nil {
			fmt.Println("error", err)
			continue
		}
		for key, value := range op.header {
			request.Header.Set(key, value)
		}
		if op.name == "trailers-up" {
			request.Header = http.Header{}
			request.Trailer = http.Header{"X-Up": {"4"}}
		}
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			header.Del("Content-Length")
			fmt.Println("interim", code, fields(" ", http.Header(header)))
			return nil
		}}
		answer, err := client.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
		if err != nil {
			fmt.Println("error", kind(err))
			continue
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		fmt.Println(answer.Status, "of version", answer.ProtoMajor)
		for _, line := range fields("> ", answer.Header) {
			fmt.Println(line)
		}
		fmt.Println("body", strings.TrimSpace(string(body)), kind(err))
		for _, line := range fields("trailer ", answer.Trailer) {
			fmt.Println(line)
		}
	}
}

// kind is an error without addresses.
func kind(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	for _, word := range []string{"connection reset", "broken pipe", "unexpected EOF", "EOF", "timeout", "stream error", "malformed"} {
		if strings.Contains(text, word) {
			return word
		}
	}
	return text
}
