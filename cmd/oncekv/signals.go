package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// secondSignalAfter is when another signal counts as the second one. An earlier one is taken
// for the first, delivered to the process and its group.
const secondSignalAfter = time.Second

// untilSignal returns a context that ends with the first signal to stop. The second signal
// exits the process. stop restores the default handling.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // else nohup started it
		signal.Notify(signals, syscall.SIGHUP)
	}
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { watchSignals(signals, done, cancel, time.Now, os.Exit) })
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		running.Wait()
		cancel()
	}
}

// watchSignals calls cancel at the first signal and exit at the second that counts. It returns
// when done is closed.
func watchSignals(signals <-chan os.Signal, done <-chan struct{}, cancel func(), now func() time.Time, exit func(code int)) {
	var first time.Time
	for {
		select {
		case <-done:
			return
		case <-signals:
		}
		switch {
		case first.IsZero():
			first = now()
			cancel()
		case now().Sub(first) >= secondSignalAfter:
			exit(exitFailed)
		}
	}
}
