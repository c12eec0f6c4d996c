package main

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// photographs are those of Go's own source tree, as YCbCr frames of one size:
// brightness, then both colours, one sample of each a pixel (4:4:4).
func photographs(t *testing.T) (w, h int, frames [][]byte) {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(root)), "src", "image", "testdata", "video-001*.jpeg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		img, err := jpeg.Decode(f)
		f.Close()
		if errors.Is(err, io.ErrUnexpectedEOF) {
			continue // one is truncated on purpose
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(frames) == 0 {
			w, h = img.Bounds().Dx(), img.Bounds().Dy()
		}
		if img.Bounds() != image.Rect(0, 0, w, h) {
			t.Fatalf("%s has another size: %v", file, img.Bounds())
		}
		frame := make([]byte, 3*w*h)
		for y := range h {
			for x := range w {
				c := color.YCbCrModel.Convert(img.At(x, y)).(color.YCbCr)
				at := y*w + x
				frame[at], frame[w*h+at], frame[2*w*h+at] = c.Y, c.Cb, c.Cr
			}
		}
		frames = append(frames, frame)
	}
	if len(frames) < 10 {
		t.Fatalf("only %d photographs in %s", len(frames), root)
	}
	return w, h, frames
}

// film is a stream of n frames: the photographs in turn, each with the frame's
// number in its first pixels, and some with parameters.
type film struct {
	header string
	frames []string // with their lines
}

func makeFilm(t *testing.T, n int) *film {
	w, h, photos := photographs(t)
	f := &film{header: fmt.Sprintf("YUV4MPEG2 W%d H%d F240:1 Ip A1:1 C444 XMADE=BY=A=TEST\n", w, h)}
	for i := range n {
		line, planes := "FRAME\n", bytes.Clone(photos[i%len(photos)])
		if i%7 == 3 {
			line = "FRAME Ippp XNUMBER=" + fmt.Sprint(i) + "\n"
		}
		copy(planes, fmt.Sprintf("%08d", i))
		f.frames = append(f.frames, line+string(planes))
	}
	return f
}

// size is the size of bytes.
func (f *film) size(from, to int) int {
	n := len(f.header)
	for _, frame := range f.frames[from:to] {
		n += len(frame)
	}
	return n
}

// bytes is the stream that begins with some frame and ends before another.
func (f *film) bytes(from, to int) []byte {
	b := []byte(f.header)
	for _, frame := range f.frames[from:to] {
		b = append(b, frame...)
	}
	return b
}

func kbus(t *testing.T, socket string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := exec.LookPath("kbus") // testscript.Main has put the test there
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), "KBUS_SOCKET="+socket)
	return cmd
}

// launch starts a kbus that is ended with the test at the latest.
func launch(t *testing.T, socket, ready string, args ...string) *process {
	t.Helper()
	p, err := start(kbus(t, socket, args...), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		p.wait()
	})
	if !p.says(ready) {
		t.Fatalf("kbus %v ended: %s", args, p.words())
	}
	return p
}

// wrote waits for n bytes of output.
func (p *process) wrote(n int) bool {
	return p.await(func(out, _ []byte) bool { return len(out) >= n })
}

// One sender, a recorder, an analyser and a Listener that is stopped by
// SIGSTOP, as four processes (R9.1, R9.3, R6.7). The analyser is killed and
// started again in the middle (R9.2).
func TestVideo(t *testing.T) {
	const (
		name   = "$.Film"
		total  = 400
		ahead  = 40 // frames that the camera may be ahead of the receivers
		queue  = 100
		opened = 150 // frames when the analyser dies
	)
	f := makeFilm(t, total)
	dir, err := os.MkdirTemp("", "kbus-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	launch(t, socket, "^ready$", "up")
	view := func() *process { return launch(t, socket, "^listening$", "y4m", "receive", name) }
	recorder, analyser, stopped := view(), view(), view()
	sender := launch(t, socket, "", "y4m", "send", name, "--rate", "1000")

	// The camera films no faster than the recorder and the analyser, which began
	// with frame joined, can be scheduled, so that the test says the same on a
	// machine that does other things meanwhile.
	joined := 0
	film := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			if need := i - ahead; need > joined && !(recorder.wrote(f.size(0, need)) && analyser.wrote(f.size(joined, need))) {
				t.Fatalf("a receiver ended before frame %d: %s%s", need, recorder.words(), analyser.words())
			}
			if _, err := io.WriteString(sender.in, f.frames[i]); err != nil {
				t.Fatalf("the sender ended before frame %d: %v, %s", i, err, sender.words())
			}
		}
	}
	if _, err := io.WriteString(sender.in, f.header); err != nil {
		t.Fatal(err)
	}

	// It has asked for the end before it writes its second frame.
	film(0, 2)
	if !stopped.wrote(f.size(0, 2)) {
		t.Fatalf("the Listener to be stopped ended: %s", stopped.words())
	}
	pid := stopped.cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var state syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &state, syscall.WUNTRACED, nil); err != nil || !state.Stopped() {
		t.Fatalf("it is not stopped: %v, %v", state, err)
	}

	film(2, opened)
	if !recorder.wrote(f.size(0, opened)) {
		t.Fatalf("the recorder ended: %s", recorder.words())
	}
	if err := analyser.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if code := analyser.wait(); code != -1 {
		t.Errorf("the analyser exited with %d instead of being killed", code)
	}
	if seen := analyser.out; !bytes.HasPrefix(f.bytes(0, total), seen) {
		t.Errorf("what the first analyser saw until it was killed, %d bytes, is not the stream's beginning", len(seen))
	}
	analyser, joined = view(), opened
	film(opened, total)
	if code, want := sender.wait(), fmt.Sprintf("sent %d frames\n", total); code != 0 || string(sender.err) != want {
		t.Errorf("the sender exited with %d and said %q, want 0 and %q", code, sender.err, want)
	}

	code, said := recorder.wait(), string(recorder.err)
	if code != 0 || said != fmt.Sprintf("listening\nreceived %d frames, missed 0\n", total) {
		t.Errorf("the recorder exited with %d and said %q", code, said)
	}
	if !bytes.Equal(recorder.out, f.bytes(0, total)) {
		t.Error("the recording is not what was filmed")
	}

	code, said = analyser.wait(), string(analyser.err)
	if want := fmt.Sprintf("listening\nreceived %d frames, missed 0\njoined at frame %d\n", total-joined, joined); code != 0 || said != want {
		t.Errorf("the second analyser exited with %d and said %q, want 0 and %q", code, said, want)
	}
	if !bytes.Equal(analyser.out, f.bytes(joined, total)) {
		t.Error("the second analyser did not see what was filmed from the middle on")
	}

	// The stopped one has cost nobody anything; it has the frames that its queue
	// held, less the place for the answer to its Request (R5.3, R6.1).
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	code, said = stopped.wait(), string(stopped.err)
	const held = 2 + queue - 1
	if want := fmt.Sprintf("listening\nreceived %d frames, missed %d\n", held, total-held); code != 1 || said != want {
		t.Errorf("the stopped Listener exited with %d and said %q, want 1 and %q", code, said, want)
	}
	if !bytes.Equal(stopped.out, f.bytes(0, held)) {
		t.Errorf("the stopped Listener has something else than the first %d frames", held)
	}
}
