package nodeurl

import (
	"errors"
	"net/netip"
)

// Prefixes that wrap an IPv4 address, and where it stands in them.
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	compatible = netip.MustParsePrefix("::/96")
	sixToFour  = netip.MustParsePrefix("2002::/16")
)

// Addresses that no node has.
var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	broadcast   = netip.MustParseAddr("255.255.255.255")
	// The metadata service of EC2. Those of other clouds are link-local.
	metadata = netip.MustParseAddr("fd00:ec2::254")
)

// CheckAddr refuses addresses at which no node can be, although something may answer there:
// link-local ones, where clouds give out credentials, unspecified ones, multicast and
// broadcast. Loopback and private addresses are fine. It judges an IPv4 address inside of an
// IPv6 one like the IPv4 address.
func CheckAddr(addr netip.Addr) error {
	if addr.Zone() != "" {
		return errors.New("its address has a zone, which is valid on one machine only")
	}
	addr = inner(addr)
	switch {
	case addr.IsUnspecified(), thisNetwork.Contains(addr):
		return errors.New("its address stands for every interface of a machine, not for a machine")
	case addr.IsLinkLocalUnicast(), addr == metadata:
		return errors.New("its address is a link-local one, where no node can be")
	case addr.IsMulticast(), addr == broadcast:
		return errors.New("its address is a multicast one, where no node can be")
	}
	return nil
}

// inner returns the IPv4 address that an IPv6 address stands for, or addr.
func inner(addr netip.Addr) netip.Addr {
	addr = addr.Unmap()
	if addr.Is4() {
		return addr
	}
	b := addr.As16()
	switch {
	case addr.IsLoopback():
	case nat64.Contains(addr), compatible.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:]))
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return addr
}
