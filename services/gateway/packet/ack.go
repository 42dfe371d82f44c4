package packet

// DecodeAck reads a PUBACK, PUBREC, PUBREL or PUBCOMP.
func DecodeAck(f Frame, version byte) (id uint16, code Code, err error) {
	r := reader{b: f.Body}
	id = r.packetID()
	if version == V5 && len(r.b) > 0 {
		code = Code(r.byte())
		if len(r.b) > 0 {
			p := r.properties()
			if err := p.skip(onAck); err != nil {
				r.fail(err)
			}
		}
	}
	return id, code, r.end()
}

// DecodeDisconnect reads a DISCONNECT. hasExpiry tells that the client changed
// its session's expiry.
func DecodeDisconnect(f Frame, version byte) (code Code, hasExpiry bool, expiry uint32, err error) {
	r := reader{b: f.Body}
	if version == V5 && len(r.b) > 0 {
		code = Code(r.byte())
		if len(r.b) > 0 {
			p := r.properties()
			for p.next(onDisconnect) {
				if p.id == propSessionExpiry {
					hasExpiry, expiry = true, p.num
				}
			}
			if p.err != nil {
				r.fail(p.err)
			}
		}
	}
	return code, hasExpiry, expiry, r.end()
}
