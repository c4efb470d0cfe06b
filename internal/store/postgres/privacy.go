package postgres

import (
	"crypto/tls"
	"net"
)

// privacy says in words how a session is kept from being read or forged on its way, and whether that is good enough: no
// network of others may be on the way unless the server proved who it is.
func (s *session) privacy() (words string, enough bool) {
	conn := s.conn.PgConn().Conn()
	_, encrypted := conn.(*tls.Conn)
	c := s.conn.Config().TLSConfig
	verified := encrypted && c != nil && (!c.InsecureSkipVerify || c.VerifyPeerCertificate != nil || c.VerifyConnection != nil)
	return privacyOf(conn.RemoteAddr(), encrypted, verified)
}

func privacyOf(server net.Addr, encrypted, verified bool) (words string, enough bool) {
	tcp, ok := server.(*net.TCPAddr)
	switch {
	case !ok:
		return "by a socket of this machine", true
	case verified:
		return "encrypted, the server is verified", true
	case tcp.IP.IsLoopback():
		return "on this machine", true
	case encrypted:
		return "encrypted, the server is not verified", false
	}
	return "not encrypted", false
}
