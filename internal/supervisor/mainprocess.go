package supervisor

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/supervisor/launch"
	"sallyport.dev/sallyport/internal/supervisor/process"
)

const (
	// reportTime bounds how long the end of the main process is held up by a gateway that does not answer.
	reportTime     = 10 * time.Second
	reportCall     = 3 * time.Second
	firstReportGap = 250 * time.Millisecond
	maxReportGap   = 2 * time.Second
)

// runMain runs the sandbox's main process to its end and tells the gateway its exit code, unless it ended because
// the supervisor ends. The process writes where the supervisor writes.
func (s *supervisor) runMain(ctx context.Context) int {
	code, err := s.startMain()
	if ctx.Err() != nil {
		return 0
	}
	if err != nil {
		s.log.Error("main process not started", "error", err)
		if shell, ok := launch.ExitCode(err); ok {
			code = shell
		} else {
			code = 1
		}
	} else {
		s.log.Info("main process ended", "exit_code", code)
	}
	s.reportExit(ctx, code)
	return code
}

func (s *supervisor) startMain() (int, error) {
	m := s.Config.Main
	c := launch.Command{Argv: m.Command}
	if m.Terminal {
		c.Terminal = &process.Size{Cols: 80, Rows: 24}
	} else {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return 0, fmt.Errorf("open input of main process: %w", err)
		}
		defer null.Close()
		c.Stdio = &[3]*os.File{null, os.Stdout, os.Stderr}
	}
	p, err := s.launcher.Start(c)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	if m.Terminal {
		buf := make([]byte, 32<<10)
		err := p.Copy(p.Stdout, buf, func(n int) error {
			_, err := s.Output.Write(buf[:n])
			return err
		})
		if err != nil {
			s.log.Warn("output of main process lost", "error", err)
		}
	}
	<-p.Done()
	return p.ExitCode(), nil
}

// reportExit tells the gateway. One that does not know the call, or is gone for good, does not keep us.
func (s *supervisor) reportExit(ctx context.Context, code int) {
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	gap := firstReportGap
	for {
		call, stop := context.WithTimeout(ctx, reportCall)
		_, err := s.gateway.ReportMainProcessExit(call, &openshellpb.ReportMainProcessExitRequest{
			SandboxId: s.Config.SandboxID, InstanceId: s.instance, ExitCode: int32(code),
		})
		stop()
		switch status.Code(err) {
		case codes.OK, codes.Unimplemented:
			return
		case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied:
			s.log.Warn("gateway refused the main process's exit code", "error", err)
			return
		case codes.Unauthenticated:
			s.renew(ctx, err)
		}
		select {
		case <-ctx.Done():
			s.log.Warn("main process's exit code not reported", "error", err)
			return
		case <-time.After(gap):
			gap = min(2*gap, maxReportGap)
		}
	}
}
