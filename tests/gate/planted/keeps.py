import KSR
seen = {}
def mod_init():
    return Script()
class Script:
    def child_init(self, rank):
        return 0
    def ksr_request_route(self, msg):
        seen[KSR.pv.get("$ci")] = KSR.pv.get("$ua")
        KSR.sl.send_reply(200, "OK")
        return 1
