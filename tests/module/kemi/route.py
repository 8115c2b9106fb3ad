# A KEMI script in Python: asks memguard before it saves a registration (auto 0).
import KSR as KSR


class Kamailio:
    def child_init(self, rank):
        return 0

    def ksr_request_route(self, msg):
        if not KSR.is_REGISTER():
            KSR.sl.sl_send_reply(200, "OK")
            return 1
        wanted = KSR.hdr.get("X-Class")
        admitted = KSR.memguard.admit_class(wanted) if wanted else KSR.memguard.admit()
        if admitted < 0:
            if KSR.memguard.reject() < 0:
                KSR.sl.sl_send_reply(500, "not rejected")
            return 1
        KSR.hdr.append_to_reply("X-Guard: %s %d\r\n" % (KSR.pv.get("$memguard(level)"), admitted))
        KSR.registrar.save("location", 0)
        return 1

    def ksr_memguard_event(self, msg, event):
        was, now = (KSR.pv.get("$memguard(%s)" % name) for name in ("from", "to"))
        KSR.notice("told: %s %s %s end\n" % (event, was, now))
        return 1


def mod_init():
    return Kamailio()
