package forward

import (
	"context"
	"slices"
	"sync"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// perSession is how many connections a gateway lets one SSH session have at the same time.
const perSession = 3

// sessions are the SSH sessions by which a gateway lets connections in. They are made as they are needed, used again, and
// given back in the end.
type sessions struct {
	mu  sync.Mutex
	all []*session
}

type session struct {
	token string
	uses  int
}

// take returns a session with room for one more connection.
func (s *sessions) take(ctx context.Context, shell openshellpb.OpenShellClient, sandboxID string) (*session, error) {
	s.mu.Lock()
	for _, one := range s.all {
		if one.uses < perSession {
			one.uses++
			s.mu.Unlock()
			return one, nil
		}
	}
	s.mu.Unlock()
	made, err := shell.CreateSshSession(ctx, &openshellpb.CreateSshSessionRequest{SandboxId: sandboxID})
	if err != nil {
		return nil, err
	}
	one := &session{token: made.GetToken(), uses: 1}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, one)
	return one, nil
}

// give ends one connection's use. A session that is good no more is forgotten.
func (s *sessions) give(one *session, good bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one.uses--
	if !good {
		s.all = slices.DeleteFunc(s.all, func(o *session) bool { return o == one })
	}
}

// revoke gives all sessions back.
func (s *sessions) revoke(ctx context.Context, shell openshellpb.OpenShellClient) {
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.all {
		// A session that is not given back expires.
		_, _ = shell.RevokeSshSession(ctx, &openshellpb.RevokeSshSessionRequest{Token: one.token})
	}
	s.all = nil
}
