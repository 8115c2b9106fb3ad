# A KEMI script with a leak on demand: a request with X-Keep: N leaves N bytes and a reference to them behind.
# Every other request makes as much and keeps nothing.
import KSR

kept = []


def mod_init():
    return Script()


class Script:
    def child_init(self, rank):
        return 0

    def ksr_request_route(self, msg):
        wanted = KSR.pv.get("$hdr(X-Keep)")
        if wanted:
            kept.append(bytes(int(wanted)) + b"!")
        else:
            passing = [bytes(300) for _ in range(100)]
            passing.append(passing)  # garbage that only the collector frees
        KSR.sl.send_reply(200, "OK")
        return 1
