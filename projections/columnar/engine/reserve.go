package engine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reserve keeps a free port for an engine that may come and go: it is bound, and
// given to nobody else, this process included, as a free one. An engine whose
// Config says Reserved can listen there.
func Reserve(host string) (port int, release func() error, err error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, nil, err
	}
	at := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil {
		return 0, nil, err
	}
	family, name := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: at.Port, Addr: [16]byte(at.IP.To16())})
	if ip := at.IP.To4(); ip != nil {
		family, name = unix.AF_INET, &unix.SockaddrInet4{Port: at.Port, Addr: [4]byte(ip)}
	}
	syscall.ForkLock.RLock()
	socket, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(socket)
	}
	syscall.ForkLock.RUnlock()
	if err == nil {
		if err = sharing(uintptr(socket)); err == nil {
			err = os.NewSyscallError("bind", unix.Bind(socket, name))
		}
		if err != nil {
			err = errors.Join(err, unix.Close(socket))
		}
	}
	if err != nil {
		return 0, nil, fmt.Errorf("reserve %s: %w", at, err)
	}
	return at.Port, func() error { return unix.Close(socket) }, nil
}

// sharing lets other sockets of this user, which say the same, have a socket's port.
func sharing(socket uintptr) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(socket), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
}
