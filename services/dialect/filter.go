package dialect

import "strings"

// ValidTopic tells whether a message can be published to topic: not empty, no
// wild cards. Whether it is UTF-8 without U+0000 is the codec's to check.
func ValidTopic(topic string) bool {
	return topic != "" && !strings.ContainsAny(topic, "+#")
}

// ValidFilter tells whether a subscription filter is well formed: each wild
// card takes a whole level, and # only the last.
func ValidFilter(filter string) bool {
	if filter == "" {
		return false
	}
	for more := true; more; {
		var text string
		text, filter, more = strings.Cut(filter, "/")
		if text == "+" || text == "#" && !more {
			continue
		}
		if strings.ContainsAny(text, "+#") {
			return false
		}
	}
	return true
}

// Match tells whether a valid filter matches a topic. Wild cards at the first
// level don't match topics that begin with $.
func Match(filter, topic string) bool {
	if topic != "" && topic[0] == '$' && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	for {
		want, filterTail, filterMore := strings.Cut(filter, "/")
		if want == "#" {
			return true
		}
		got, topicTail, topicMore := strings.Cut(topic, "/")
		if want != "+" && want != got {
			return false
		}
		if !topicMore {
			return !filterMore || filterTail == "#"
		}
		if !filterMore {
			return false
		}
		filter, topic = filterTail, topicTail
	}
}
