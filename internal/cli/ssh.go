package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

const (
	proxyCommand = "ssh-proxy"
	// proxyChunk is how much one message carries, in bytes.
	proxyChunk = 32 << 10
	// revokeTimeout is what giving back an SSH session may take; it would expire by itself.
	revokeTimeout = 2 * time.Second
	// sshFailed is how ssh ends when it could not connect, or when it was killed.
	sshFailed = 255
)

func (a *app) sandboxSSHCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ssh [NAME] [-- COMMAND...]", Short: "Open an SSH session in a sandbox",
		Long: "Open an SSH session in a sandbox with this machine's ssh, or run a command over it, and end with ssh's exit\n" +
			"code. No port and no key is needed: ssh reaches the sandbox through the gateway.",
		ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			if a.out.Structured() {
				return usagef("-o does not go with ssh: the output is the session's own")
			}
			var command []string
			if at := c.ArgsLenAtDash(); at >= 0 {
				args, command = args[:at], args[at:]
			}
			if len(args) > 1 {
				return usagef("name one sandbox, and put the command behind --")
			}
			return a.ssh(c.Context(), firstArg(args), command)
		},
	}
}

// ssh runs this machine's ssh, with this program as the way to the sandbox.
func (a *app) ssh(ctx context.Context, given string, command []string) error {
	if err := a.handOverToken("ssh"); err != nil {
		return err
	}
	var name string
	var ref gatewayRef
	err := a.withSession(ctx, func(s *session) error {
		sb, err := a.getSandbox(ctx, s, given)
		if err != nil {
			return err
		}
		name, ref = sb.GetMetadata().GetName(), s.ref
		a.rememberSandbox(ref, name)
		return nil
	})
	if err != nil {
		return err
	}
	program, err := exec.LookPath("ssh")
	if err != nil {
		return failure("install an OpenSSH client, or use `sallyport sandbox exec`", "there is no ssh on this machine: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, program, append(sshOptions(a.proxyWords(self, ref, name)), command...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.opts.Stdio.In, a.opts.Stdio.Out, a.opts.Stdio.Err
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		if exit.ExitCode() < 0 {
			return exitWith(sshFailed)
		}
		return exitWith(exit.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("run ssh: %w", errors.Join(ctx.Err(), err))
	}
	return nil
}

// proxyWords are the command by which ssh reaches the sandbox. No token is among them: other users of the machine can
// read them.
func (a *app) proxyWords(self string, ref gatewayRef, name string) []string {
	return append(append([]string{self, proxyCommand}, a.globalWords(ref)...), "--name", name)
}

// globalWords are the flags by which another process of this program turns to the same gateway in the same way.
func (a *app) globalWords(ref gatewayRef) []string {
	var words []string
	if ref.name != "" {
		words = append(words, "--gateway", ref.name)
	}
	if ref.name == "" || !ref.bound {
		words = append(words, "--gateway-endpoint", ref.endpoint.String())
	}
	if a.flags.insecure {
		words = append(words, "--gateway-insecure")
	}
	if a.flags.tokenFile != "" {
		words = append(words, "--token-file", a.flags.tokenFile)
	}
	return append(words, "--workspace", a.flags.workspace)
}

// handOverToken makes sure that another process can read the token file too.
func (a *app) handOverToken(what string) error {
	switch a.flags.tokenFile {
	case "":
		return nil
	case "-":
		return usagef("%s cannot read a token from standard input: give --token-file a file", what)
	}
	// The other process may run elsewhere.
	file, err := filepath.Abs(a.flags.tokenFile)
	if err != nil {
		return fmt.Errorf("find the token file: %w", err)
	}
	a.flags.tokenFile = file
	return nil
}

// sshOptions are ssh's arguments up to the command. A sandbox's host key is new with each start and not checked: the
// gateway vouches for the sandbox, over TLS.
func sshOptions(proxy []string) []string {
	quoted := make([]string, len(proxy))
	for i, word := range proxy {
		// For the shell that ssh starts, and then for ssh itself, which reads percent signs before.
		quoted[i] = strings.ReplaceAll("'"+strings.ReplaceAll(word, "'", `'"'"'`)+"'", "%", "%%")
	}
	return []string{
		"-o", "ProxyCommand=exec " + strings.Join(quoted, " "),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "GlobalKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3",
		"-l", "sandbox", "sandbox",
	}
}

// sshProxyCommand is what ssh starts.
func (a *app) sshProxyCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: proxyCommand + " --name NAME", Short: "Connect standard input and output to a sandbox's SSH server", Hidden: true,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if name == "" {
				return usagef("--name is required")
			}
			return a.withSession(c.Context(), func(s *session) error {
				sb, err := a.getSandbox(c.Context(), s, name)
				if err != nil {
					return err
				}
				return a.proxy(c.Context(), s, sb.GetMetadata().GetId())
			})
		},
	}
	c.Flags().StringVar(&name, "name", "", "sandbox to connect to")
	return c
}

// proxy carries standard input and output to the sandbox's SSH server, with an SSH session of its own.
func (a *app) proxy(ctx context.Context, s *session, id string) error {
	made, err := s.shell.CreateSshSession(ctx, &openshellpb.CreateSshSessionRequest{SandboxId: id})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
		defer cancel()
		// A session that is not given back expires.
		_, _ = s.shell.RevokeSshSession(ctx, &openshellpb.RevokeSshSessionRequest{Token: made.GetToken()})
	}()
	defer s.keepFresh(ctx)()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.shell.ForwardTcp(ctx)
	if err != nil {
		return err
	}
	init := &openshellpb.TcpForwardFrame{Payload: &openshellpb.TcpForwardFrame_Init{Init: &openshellpb.TcpForwardInit{
		SandboxId: id, ServiceId: proxyCommand + ":" + id, AuthorizationToken: made.GetToken(),
		Target: &openshellpb.TcpForwardInit_Ssh{Ssh: &openshellpb.SshRelayTarget{}},
	}}}
	// A stream that is over already tells why when it is received from.
	if err := stream.Send(init); err == nil {
		// Reading standard input cannot be interrupted: this goroutine may outlive the call, until the process ends.
		go sendInput(a.opts.Stdio.In, stream)
	}
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := a.opts.Stdio.Out.Write(frame.GetData()); err != nil {
			return fmt.Errorf("pass on what the sandbox sends: %w", err)
		}
	}
}

// sendInput sends what it reads until either is over.
func sendInput(in io.Reader, stream openshellpb.OpenShell_ForwardTcpClient) {
	// A stream that is over has no use for its end; receiving tells why.
	defer func() { _ = stream.CloseSend() }()
	buf := make([]byte, proxyChunk)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			frame := &openshellpb.TcpForwardFrame{Payload: &openshellpb.TcpForwardFrame_Data{Data: buf[:n]}}
			if stream.Send(frame) != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
